// The buttons of the input cameras, the panel of settings, and the home button.
import { Recorder, screenshot } from "./capture.js";
import { $ } from "./page.js";

export function connectControls(viewer) {
  addViewButtons(viewer);
  connectSettings(viewer);
  connectCapture(viewer);
  $("home").onclick = () => viewer.snap(0);
}

function addViewButtons(viewer) {
  viewer.about.extrinsics.forEach((_, i) => {
    const button = document.createElement("button");
    button.textContent = i + 1;
    button.title = `Input camera ${i + 1}`;
    button.onclick = () => viewer.snap(i);
    $("views").append(button);
  });
  viewer.onChange(() => {
    [...$("views").children].forEach((button, i) => button.classList.toggle("on", i === viewer.state.view));
  });
}

function connectSettings(viewer) {
  const { camera, stage, state } = viewer;
  const redrawn = (change) => () => {
    change();
    state.dirty = true;
  };
  $("settings").onclick = () => openPanel($("panel").hidden);
  $("scale").oninput = redrawn(() => stage.setScale(Number($("scale").value)));
  $("background").oninput = redrawn(() => stage.background.set($("background").value));
  $("highlight").onchange = redrawn(() => stage.setHighlight($("highlight").checked));
  $("soft").onchange = redrawn(() => {});
  $("limit").onchange = () => (camera.limits.on = $("limit").checked);
  for (const name of ["soft", "limit"]) $(name).parentElement.hidden = !viewer.about.orbit.limits;
  $("fov").oninput = () => {
    camera.setFov(Number($("fov").value));
    viewer.takeCamera();
  };
}

function openPanel(on) {
  $("panel").hidden = !on;
  $("settings").classList.toggle("on", on);
}

function connectCapture(viewer) {
  const recorder = new Recorder($("canvas"), (recording) => ($("stop").hidden = !recording));
  $("full").onclick = toggleFullScreen;
  $("screenshot").onclick = () => screenshot($("canvas"), viewer.state.time);
  $("record").onclick = async () => {
    openPanel(false); // the canvas takes its place, and keeps that size
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    recorder.start(() => viewer.state.time);
  };
  $("stop").onclick = () => recorder.stop();
}

function toggleFullScreen() {
  document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
}
