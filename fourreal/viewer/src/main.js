// The page: reads the scene, connects its parts, and starts to draw.
import { connectControls } from "./controls.js";
import { connectHand } from "./hand.js";
import { connectKeys } from "./keyboard.js";
import { startLoop } from "./loop.js";
import { connectMessages } from "./messages.js";
import { Overlay } from "./overlay.js";
import { $ } from "./page.js";
import { openSource, Ring } from "./source.js";
import { connectTimeline } from "./timeline.js";
import { Viewer } from "./viewer.js";

async function start() {
  const source = openSource();
  const about = JSON.parse(new TextDecoder().decode(await source("scene.json")));
  const ring = new Ring(source, about.dynamic.length);
  const [{ buffer }] = await Promise.all([source("static.bin"), ring.get(0)]);
  const viewer = new Viewer(source, about, new Uint32Array(buffer), ring);
  const { state, camera, stage, path } = viewer;
  connectControls(viewer);
  connectTimeline(viewer);
  connectKeys(viewer);
  connectHand($("canvas"), camera, (x, y) => viewer.focus(x, y));
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
    path,
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
