// What the page shows (a time, from a camera) and the ways to change it. The controls, the input
// frame and the messages are told of each change; the drawing loop sees `state.dirty`.
import { Camera } from "./camera.js";
import { $ } from "./page.js";
import { Ring } from "./source.js";
import { Stage } from "./stage.js";

const LONGEST_STEP = 0.25; // seconds that the clock goes on at once, however late a frame is

export class Viewer {
  constructor(source, about, staticSplats) {
    this.source = source;
    this.about = about;
    this.count = about.dynamic.length;
    this.state = {
      time: 0, // asked for
      shown: -1, // the time whose Gaussians the stage has
      elapsed: 0, // times since the clock came to `time`
      playing: false,
      view: 0, // the input camera that is looked through, or -1
      dirty: true, // the canvas must be drawn anew
      busy: false, // it is being drawn
      lost: false, // the GPU has taken the context away
      drawn: 0, // images so far
    };
    this.listeners = [];
    this.stage = new Stage($("canvas"), about, staticSplats);
    this.ring = new Ring(source, this.count);
    this.camera = new Camera($("canvas"), about, () => this.cameraMoved());
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  changed() {
    for (const listener of this.listeners) listener();
  }

  // The user is dragging or flying the camera.
  get cameraInHand() {
    return this.camera.dragging || this.camera.keys.size > 0;
  }

  cameraMoved() {
    this.state.dirty = true;
    if (this.camera && this.cameraInHand) this.leaveView(); // the camera moves once while it is made
  }

  // Look through an input camera.
  snap(view) {
    if (view < 0 || view >= this.about.extrinsics.length) return;
    this.state.view = view;
    this.camera.snap(view);
    $("fov").value = this.camera.fov;
    this.changed();
  }

  leaveView() {
    this.state.view = -1;
    $("fade").value = 0;
    this.changed();
  }

  setTime(time) {
    this.state.time = ((time % this.count) + this.count) % this.count;
    this.state.elapsed = 0;
    this.state.dirty = true;
    this.changed();
  }

  play(on) {
    if (on && this.state.time === this.count - 1 && !$("loop").checked) this.setTime(0);
    this.state.playing = on;
    this.changed();
  }

  // Stop at another time.
  stopAt(time) {
    this.play(false);
    this.setTime(time);
  }

  // Let the clock go on, never ahead of what is shown.
  advance(seconds) {
    const { state } = this;
    if (!state.playing || ($("hold").checked && this.cameraInHand)) return;
    const step = Math.min(seconds, LONGEST_STEP);
    state.elapsed += step * this.about.fps * Number($("speed").value);
    if (state.elapsed < 1 || state.shown !== state.time) return;
    const next = state.time + Math.floor(state.elapsed);
    if (next >= this.count && !$("loop").checked) {
      this.setTime(this.count - 1);
      this.play(false);
    } else this.setTime(next);
  }

  idle() {
    return !this.state.dirty && !this.state.busy && !this.state.lost;
  }
}
