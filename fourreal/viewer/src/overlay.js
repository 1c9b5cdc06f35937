// The input frame of the camera that is looked through, faded over the canvas.
import { $ } from "./page.js";

export class Overlay {
  constructor(viewer) {
    this.viewer = viewer;
    this.name = ""; // of the frame that was asked for last
    $("fade").parentElement.hidden = !viewer.about.frames;
    $("fade").oninput = () => this.show();
    viewer.onChange(() => this.show());
  }

  async show() {
    const { about, camera, source, state, sceneTime } = this.viewer;
    const image = $("frame");
    const fade = Number($("fade").value);
    image.style.opacity = state.view < 0 ? 0 : fade;
    for (const [side, size] of Object.entries(camera.rectangle ?? {})) image.style[side] = `${size}px`;
    const name = `${state.view}_${sceneTime}.jpg`;
    if (!about.frames || state.view < 0 || fade === 0 || name === this.name) return;
    this.name = name;
    const url = URL.createObjectURL(new Blob([await source(name)], { type: "image/jpeg" }));
    image.onload = () => URL.revokeObjectURL(url);
    if (this.name === name) image.src = url; // no other was asked for meanwhile
  }
}
