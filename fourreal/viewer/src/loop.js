// The drawing loop: moves the clock and the flying camera on, and draws only what has changed.
import { $ } from "./page.js";

const LONGEST_FLIGHT = 0.1; // seconds that the camera flies at once, however late a frame is

export function startLoop(viewer) {
  const rate = new Rate();
  let before = performance.now();
  async function step(now) {
    const seconds = (now - before) / 1000;
    before = now;
    viewer.camera.fly(Math.min(seconds, LONGEST_FLIGHT));
    viewer.advance(seconds);
    if (viewer.state.dirty && !viewer.state.lost) await draw(viewer, rate);
    const fps = rate.measure(now);
    if (fps !== null) showInfo(viewer, fps);
    requestAnimationFrame(step);
  }
  requestAnimationFrame(step);
}

async function draw(viewer, rate) {
  const { state, stage } = viewer;
  state.dirty = false;
  state.busy = true;
  const { time } = state;
  try {
    if (state.shown !== time) {
      stage.showTime(time, await viewer.ring.get(time));
      state.shown = time;
    }
    await stage.draw(viewer.camera.lens);
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

function showInfo({ about, state }, fps) {
  const gaussians = (about.static + about.dynamic[state.time]).toLocaleString("en");
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
