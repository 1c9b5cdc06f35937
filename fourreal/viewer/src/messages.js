// What a page that embeds this one in a frame may say to it, and hears from it:
//   { type: "fourreal:set", time?, view?, playing?, camera? } changes the state;
//   { type: "fourreal:ready", ... } is sent to it once, when it may be answered;
//   { type: "fourreal:state", time, view, camera } is sent to it after each change.
// view: the input camera that is looked through, from 0, or -1.
// camera: { position, target, quaternion (x, y, z, w), fov (degrees, vertical) }, three.js axes.

export function connectMessages(viewer) {
  const tell = (type) => {
    const { time, view } = viewer.state;
    if (parent !== window) parent.postMessage({ type, time, view, camera: viewer.camera.state }, "*");
  };
  addEventListener("message", ({ data, source }) => {
    if (source === parent && data?.type === "fourreal:set") obey(viewer, data);
  });
  viewer.onChange(() => tell("fourreal:state"));
  tell("fourreal:ready");
}

function obey(viewer, { view, camera, time, playing }) {
  if (view !== undefined) viewer.snap(view);
  if (camera) {
    viewer.camera.state = camera;
    viewer.leaveView();
  }
  if (time !== undefined) viewer.setTime(time);
  if (playing !== undefined) viewer.play(playing);
}
