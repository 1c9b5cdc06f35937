// Mouse, pen and fingers on the canvas: one finger or the left button turns the camera, two fingers
// or another button pan it, the wheel and two fingers zoom, two clicks focus.
import { MathUtils } from "three";

const SPEED = 0.3 * MathUtils.DEG2RAD; // of a turn, per pixel: gentle at every size of the window
const WHEEL = 0.0005; // of the distance's logarithm, per unit of the wheel

export function connectHand(canvas, camera, focus) {
  const pointers = new Map(); // id: place on the canvas
  let button = 0;
  const place = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    button = event.ctrlKey || event.shiftKey || event.metaKey ? 2 : event.button;
    camera.dragging = true;
    camera.gliding = null;
  });

  canvas.addEventListener("pointermove", (event) => {
    const from = pointers.get(event.pointerId);
    if (!from) return;
    const to = place(event);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) pinch(camera, from, to, other);
    else if (button === 0) camera.turn((from[0] - to[0]) * SPEED, (from[1] - to[1]) * SPEED);
    else camera.pan(from, to);
    pointers.set(event.pointerId, to);
  });

  const release = (event) => {
    pointers.delete(event.pointerId);
    camera.dragging = pointers.size > 0;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", (event) => focus(...place(event)));
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      // A pinch on a touchpad comes as a small turn of the wheel with the control key.
      const unit = event.ctrlKey ? 10 : event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      whileInHand(camera, () => camera.zoom(Math.exp(event.deltaY * unit * WHEEL), ...place(event)));
    },
    { passive: false },
  );
}

// One of two fingers has moved: their middle pans, their distance zooms.
function pinch(camera, from, to, other) {
  const middle = (point) => [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2];
  const apart = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
  camera.pan(middle(from), middle(to));
  camera.zoom(apart(from) / apart(to), ...middle(to));
}

function whileInHand(camera, action) {
  const before = camera.dragging;
  camera.dragging = true;
  action();
  camera.dragging = before;
}
