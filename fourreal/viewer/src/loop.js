// The drawing loop: moves the clock and the camera on, and draws only what has changed.
import { $ } from "./page.js";

const LONGEST_FLIGHT = 0.1; // seconds that the camera flies at once, however late a frame is

export function startLoop(viewer) {
  const rate = new Rate();
  let before = performance.now();
  async function step(now) {
    const seconds = (now - before) / 1000;
    before = now;
    viewer.camera.advance(Math.min(seconds, LONGEST_FLIGHT));
    viewer.advance(seconds);
    viewer.follow();
    viewer.open(seconds);
    if (viewer.state.dirty && !viewer.state.lost) await draw(viewer, rate);
    const fps = rate.measure(now);
    if (fps !== null) showInfo(viewer, fps);
    requestAnimationFrame(step);
  }
  requestAnimationFrame(step);
}

async function draw(viewer, rate) {
  const { state, stage, ring } = viewer;
  state.dirty = false;
  state.busy = true;
  const time = viewer.sceneTime;
  try {
    if (state.shown !== time) {
      stage.showTime(time, await ring.get(time));
      state.shown = time;
    }
    stage.setFaded($("soft").checked ? state.open : 0);
    await stage.draw(viewer.camera.lens, viewer.window);
    ring.fetchAhead(time);
    $("status").textContent = "";
    state.drawn++;
    rate.images++;
    if (!$("info").textContent) showInfo(viewer, 0);
  } catch (error) {
    // Spark rejects with nothing when the context is lost under its hands; it is made again.
    $("status").textContent = error?.message ?? "";
  }
  state.busy = false;
}

function showInfo({ about, sceneTime }, fps) {
  const gaussians = (about.static + about.dynamic[sceneTime]).toLocaleString("en");
  $("info").textContent = `${gaussians} Gaussians` + (fps ? `, ${fps.toFixed(0)} fps` : "");
}

// Images per second, measured once a second.
class Rate {
  images = 0;
  since = performance.now();

  measure(now) {
    if (now - this.since <= 1000) return null;
    const fps = (this.images * 1000) / (now - this.since);
    this.images = 0;
    this.since = now;
    return fps;
  }
}
