// What the page shows (a time, from a camera) and the ways to change it. The controls, the input
// frame and the messages are told of each change; the drawing loop sees `state.dirty`.
import { Camera } from "./camera.js";
import { $ } from "./page.js";
import { Path } from "./path.js";
import { Stage } from "./stage.js";

const LONGEST_STEP = 0.25; // seconds that the clock goes on at once, however late a frame is
const OPENING = 0.4; // seconds in which the picture of an input camera opens to the whole window
const STILL = 4; // seconds of the timeline of a scene of one time, along which its camera may go

export class Viewer {
  constructor(source, about, staticSplats, ring) {
    this.source = source;
    this.about = about;
    this.ring = ring;
    this.count = about.dynamic.length; // times of the scene
    this.length = this.count > 1 ? this.count : Math.ceil(STILL * about.fps); // of the timeline
    this.state = {
      time: 0, // asked for
      shown: -1, // the time whose Gaussians the stage has
      elapsed: 0, // times since the clock came to `time`
      playing: false,
      along: false, // the camera goes along the path
      view: 0, // the input camera that is looked through, or -1
      open: 0, // 0: only its picture is drawn, 1: all of the window
      dirty: true, // the canvas must be drawn anew
      busy: false, // it is being drawn
      lost: false, // the GPU has taken the context away
      drawn: 0, // images so far
    };
    this.listeners = [];
    this.path = new Path();
    this.stage = new Stage($("canvas"), about, staticSplats);
    this.camera = new Camera(about, () => this.cameraMoved());
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

  // The scene's time that is asked for.
  get sceneTime() {
    return Math.min(this.state.time, this.count - 1);
  }

  // How far the window should be open. What no camera saw has no picture to be kept to.
  get opened() {
    return this.state.view < 0 || !this.about.orbit.limits ? 1 : 0;
  }

  cameraMoved() {
    this.state.dirty = true;
    if (this.camera && this.cameraInHand) this.takeCamera(); // it moves once while it is made
  }

  // The camera is the user's: neither an input camera nor the path has it.
  takeCamera() {
    this.state.along = false;
    this.leaveView();
  }

  // Look through an input camera.
  snap(view) {
    if (view < 0 || view >= this.about.extrinsics.length) return;
    Object.assign(this.state, { view, along: false, open: this.about.orbit.limits ? 0 : 1 });
    this.camera.snap(view);
    $("fov").value = this.camera.fov;
    this.changed();
  }

  leaveView() {
    this.state.view = -1;
    $("fade").value = 0;
    this.changed();
  }

  // Go to what lies under a pixel of the canvas.
  focus(x, y) {
    const { width, height, lens } = this.camera;
    const point = this.stage.pick((2 * x) / width - 1, 1 - (2 * y) / height, lens);
    if (!point) return;
    this.takeCamera();
    this.camera.focus(point);
    this.changed();
  }

  setTime(time) {
    this.state.time = ((time % this.length) + this.length) % this.length;
    this.state.elapsed = 0;
    this.state.dirty = true;
    this.changed();
  }

  play(on) {
    if (on && this.state.time === this.length - 1 && !$("loop").checked) this.setTime(0);
    this.state.playing = on;
    this.changed();
  }

  // Stop at another time.
  stopAt(time) {
    this.play(false);
    this.setTime(time);
  }

  // Change the path by `change(path)`.
  editPath(change) {
    change(this.path);
    if (!this.path.keyframes.length) this.state.along = false;
    this.followed = undefined;
    this.changed();
  }

  // Stop at a keyframe, with its camera.
  goTo(time) {
    this.stopAt(Math.round(time));
    this.camera.state = this.path.find(time).camera;
    this.leaveView();
  }

  // Play along the path, or let the camera go.
  goAlong(on) {
    this.state.along = on && this.path.keyframes.length > 0;
    this.followed = undefined;
    if (this.state.along) this.play(true);
    else this.changed();
  }

  // Put the camera where the path is at this moment.
  follow() {
    const { state, path, camera } = this;
    if (!state.along || this.cameraInHand) return;
    const moment = state.time + Math.min(state.elapsed, 1);
    if (moment === this.followed) return;
    this.followed = moment;
    camera.state = path.at(moment);
    if (state.view >= 0 || !state.playing) this.leaveView();
  }

  // Let the clock go on, never ahead of what is shown.
  advance(seconds) {
    const { state } = this;
    if (!state.playing || ($("hold").checked && this.cameraInHand)) return;
    const step = Math.min(seconds, LONGEST_STEP);
    state.elapsed += step * this.about.fps * Number($("speed").value);
    if (state.elapsed < 1 || state.shown !== this.sceneTime) return;
    const next = state.time + Math.floor(state.elapsed);
    if (next >= this.length && !$("loop").checked) {
      this.setTime(this.length - 1);
      this.play(false);
    } else this.setTime(next);
  }

  // Open the window to what lies around the picture of the input camera that was left.
  open(seconds) {
    const { state, opened } = this;
    if (state.open === opened) return;
    state.open = opened ? Math.min(1, state.open + Math.min(seconds, LONGEST_STEP) / OPENING) : 0;
    state.dirty = true;
  }

  // The part of the canvas that is drawn.
  get window() {
    const { width, height, rectangle } = this.camera;
    const whole = { left: 0, top: 0, width, height };
    const between = (side) => rectangle[side] + (whole[side] - rectangle[side]) * this.state.open;
    return Object.fromEntries(Object.keys(whole).map((side) => [side, between(side)]));
  }

  idle() {
    const { dirty, busy, lost, open } = this.state;
    return !dirty && !busy && !lost && open === this.opened && !this.camera.gliding;
  }
}
