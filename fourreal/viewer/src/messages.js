// What a page that embeds this one in a frame may say to it, and hears from it:
//   { type: "fourreal:set", time?, view?, playing?, camera?, path? } changes the state;
//   { type: "fourreal:ready", ... } is sent to it once, when it may be answered;
//   { type: "fourreal:state", time, view, camera, path } is sent to it after each change.
// view: the input camera that is looked through, from 0, or -1.
// camera: { position, target, quaternion (x, y, z, w), fov (degrees, vertical) }, three.js axes.
// path: keyframes [{ time, camera }] by time, which is the scene's in frames. A scene of one time has a
// timeline of some seconds for its camera alone, and times in frames of its rate.

export function connectMessages(viewer) {
  const tell = (type) => {
    if (parent === window) return;
    const { camera, path, sceneTime: time, state } = viewer;
    parent.postMessage({ type, time, view: state.view, camera: camera.state, path: path.keyframes }, "*");
  };
  addEventListener("message", ({ data, source }) => {
    if (source === parent && data?.type === "fourreal:set") obey(viewer, data);
  });
  viewer.onChange(() => tell("fourreal:state"));
  tell("fourreal:ready");
}

function obey(viewer, { view, camera, time, playing, path }) {
  if (path) viewer.editPath((old) => old.replace(path));
  if (view !== undefined) viewer.snap(view);
  if (camera) {
    viewer.camera.state = camera;
    viewer.takeCamera();
  }
  if (time !== undefined) viewer.setTime(time);
  if (playing !== undefined) viewer.play(playing);
}
