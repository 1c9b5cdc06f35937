// The page: reads the scene, connects its parts, and starts to draw.
import { connectControls } from "./controls.js";
import { startLoop } from "./loop.js";
import { connectMessages } from "./messages.js";
import { Overlay } from "./overlay.js";
import { $ } from "./page.js";
import { openSource } from "./source.js";
import { Viewer } from "./viewer.js";

async function start() {
  const source = openSource();
  const about = JSON.parse(new TextDecoder().decode(await source("scene.json")));
  const staticSplats = new Uint32Array((await source("static.bin")).buffer);
  const viewer = new Viewer(source, about, staticSplats);
  const { state, camera, stage } = viewer;
  connectControls(viewer);
  const overlay = new Overlay(viewer);
  connectSize(viewer, overlay);
  connectContext(viewer);
  viewer.snap(0);
  startLoop(viewer);
  connectMessages(viewer);
  // For whoever drives the page by program, such as its tests.
  window.fourreal = {
    state,
    camera,
    stage,
    snap: (view) => viewer.snap(view),
    setTime: (time) => viewer.setTime(time),
    play: (on) => viewer.play(on),
    idle: () => viewer.idle(),
  };
}

function connectSize({ camera, stage, state }, overlay) {
  const resize = () => {
    const { clientWidth, clientHeight } = $("stage");
    stage.resize(clientWidth, clientHeight);
    camera.fit(clientWidth, clientHeight);
    state.dirty = true;
    overlay.show();
  };
  resize();
  new ResizeObserver(resize).observe($("stage"));
}

// The GPU may take the page's context away at any time; what was in it is made again.
function connectContext({ stage, state }) {
  $("canvas").addEventListener("webglcontextlost", () => (state.lost = true));
  $("canvas").addEventListener("webglcontextrestored", () => {
    stage.build();
    Object.assign(state, { lost: false, shown: -1, dirty: true });
  });
}

start().catch((error) => ($("status").textContent = error?.message ?? "the viewer could not start"));
