// The bar, the panel of settings, the buttons of the input cameras, and the keys.
import { Recorder, screenshot } from "./capture.js";
import { $ } from "./page.js";

const PLAY = "M4 2v12l10-6z";
const PAUSE = "M3 2h4v12H3zM9 2h4v12H9z";

export function connectControls(viewer) {
  addViewButtons(viewer);
  connectTimeline(viewer);
  connectSettings(viewer);
  connectCapture(viewer);
  connectKeys(viewer);
  viewer.onChange(() => showState(viewer));
}

function addViewButtons(viewer) {
  viewer.about.extrinsics.forEach((_, i) => {
    const button = document.createElement("button");
    button.textContent = i + 1;
    button.title = `Input camera ${i + 1}`;
    button.onclick = () => viewer.snap(i);
    $("views").append(button);
  });
}

function connectTimeline(viewer) {
  const { state } = viewer;
  $("time").max = viewer.count - 1;
  // The slider's value is read before play(false) puts the slider back.
  $("time").oninput = () => viewer.stopAt(Number($("time").value));
  $("play").onclick = () => viewer.play(!state.playing);
  $("back").onclick = () => viewer.stopAt(state.time - 1);
  $("next").onclick = () => viewer.stopAt(state.time + 1);
}

function connectSettings(viewer) {
  const { camera, stage, state } = viewer;
  const redrawn = (change) => () => {
    change();
    state.dirty = true;
  };
  $("settings").onclick = () => ($("panel").hidden = !$("panel").hidden);
  $("scale").oninput = redrawn(() => stage.setScale(Number($("scale").value)));
  $("background").oninput = redrawn(() => stage.background.set($("background").value));
  $("highlight").onchange = redrawn(() => stage.setHighlight($("highlight").checked));
  $("fov").oninput = redrawn(() => {
    camera.fov = Number($("fov").value);
    viewer.leaveView();
    camera.fit();
  });
}

function connectCapture(viewer) {
  const recorder = new Recorder($("canvas"), (recording) => {
    $("record").textContent = recording ? "Stop" : "Record";
  });
  $("full").onclick = toggleFullScreen;
  $("screenshot").onclick = () => screenshot($("canvas"), viewer.state.time);
  $("record").onclick = () => recorder.toggle(() => viewer.state.time);
}

function toggleFullScreen() {
  document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
}

function connectKeys(viewer) {
  const buttons = { " ": "play", ",": "back", ".": "next", h: "highlight", f: "full", p: "screenshot" };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const key = event.key.toLowerCase();
    if (viewer.camera.key(key, true)) viewer.leaveView();
    else if (key in buttons) $(buttons[key]).click();
    else if (key >= "1" && key <= "9") viewer.snap(Number(key) - 1);
    else return;
    event.preventDefault();
  });
  addEventListener("keyup", (event) => viewer.camera.key(event.key.toLowerCase(), false));
  addEventListener("blur", () => viewer.camera.keys.clear());
}

function showState({ state, count }) {
  [...$("views").children].forEach((button, i) => button.classList.toggle("on", i === state.view));
  $("play").querySelector("path").setAttribute("d", state.playing ? PAUSE : PLAY);
  $("clock").textContent = `${state.time + 1} / ${count}`;
  $("time").value = state.time;
}
