// The camera: its lens and place, the input cameras, and how it moves. It turns about `pivot`, the
// scene's centre at first, as if both were one solid thing, so what is seen never jumps.
import * as THREE from "three";
import { Limits } from "./limits.js";
import { fromOpenCV } from "./vectors.js";

const FLY = { w: [0, 0, -1], s: [0, 0, 1], a: [-1, 0, 0], d: [1, 0, 0], q: [0, -1, 0], e: [0, 1, 0] };
const STEP = THREE.MathUtils.DEG2RAD; // of a turn, after which its limits are looked at again
const POLE = 8 * THREE.MathUtils.DEG2RAD; // nearest to straight up or down
const NEARER = 0.6; // of the distance to what is focused on, that is left
const GLIDE = 0.3; // seconds

export class Camera {
  constructor(about, onMove) {
    this.about = about;
    this.center = fromOpenCV(about.center);
    this.lens = new THREE.PerspectiveCamera(50, 1, 0.01, 10000);
    this.limits = new Limits(about.orbit);
    this.up = fromOpenCV(about.orbit.up);
    this.pivot = new THREE.Vector3();
    this.dragging = false;
    this.keys = new Set();
    this.gliding = null;
    this.told = null; // the state that it was put into, as long as it stays there
    this.onMove = onMove;
    this.snap(0);
  }

  moved() {
    this.told = null;
    this.onMove();
  }

  get forward() {
    return new THREE.Vector3(0, 0, -1).applyQuaternion(this.lens.quaternion);
  }

  // How far in front of the camera the pivot is.
  get depth() {
    const depth = this.pivot.clone().sub(this.lens.position).dot(this.forward);
    return depth > 0 ? depth : this.pivot.distanceTo(this.lens.position);
  }

  snap(view) {
    const { extrinsics, intrinsics, depths, orbit, width, height } = this.about;
    const rows = extrinsics[view];
    // Camera to world is the transpose; y and z of both the camera and the world are turned.
    const axes = rows.map((row, i) => fromOpenCV(row).multiplyScalar(i ? -1 : 1));
    this.lens.quaternion.setFromRotationMatrix(new THREE.Matrix4().makeBasis(...axes));
    this.lens.position.set(0, 0, 0);
    axes.forEach((axis, i) => this.lens.position.addScaledVector(axis, rows[i][3] * (i ? 1 : -1)));
    const ahead = fromOpenCV(orbit.target).sub(this.lens.position).dot(this.forward) > 0;
    if (ahead) this.pivot.copy(fromOpenCV(orbit.target));
    else this.pivot.copy(this.lens.position).addScaledVector(this.forward, depths[view]);
    const [[fx, , cx], [, fy, cy]] = intrinsics[view];
    this.fov = 2 * Math.atan(height / (2 * fy)) * (180 / Math.PI);
    this.optics = { ratio: fx / fy, x: 1 - (2 * cx) / width, y: (2 * cy) / height - 1 };
    this.gliding = null;
    this.fit();
    this.moved();
  }

  // The image of the input cameras lies whole in the middle of the canvas.
  fit(width = this.width, height = this.height) {
    Object.assign(this, { width, height });
    if (!width || !height) return;
    const image = this.about.width / this.about.height;
    const shown = width / height;
    const fit = Math.min(1, shown / image); // height of the image in that of the canvas
    const half = Math.tan((this.fov * Math.PI) / 360);
    this.lens.fov = (Math.atan(half / fit) * 360) / Math.PI;
    this.lens.aspect = shown;
    this.lens.updateProjectionMatrix();
    const m = this.lens.projectionMatrix.elements;
    m[0] *= this.optics.ratio;
    m[8] = (this.optics.x * fit * image) / shown;
    m[9] = this.optics.y * fit;
    this.lens.projectionMatrixInverse.copy(this.lens.projectionMatrix).invert();
    const w = height * fit * image;
    const h = height * fit;
    this.rectangle = { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h };
  }

  // Turn about the pivot by angles in radians: to the left about the scene's vertical axis, and up.
  turn(left, upward) {
    const steps = Math.ceil(Math.max(Math.abs(left), Math.abs(upward)) / STEP);
    for (let i = 0; i < steps; i++) {
      this.turnAbout(this.up, left / steps);
      const lowered = Math.asin(THREE.MathUtils.clamp(this.forward.dot(this.up), -1, 1)) + upward / steps;
      if (Math.abs(lowered) > Math.PI / 2 - POLE && lowered * upward > 0) continue;
      this.turnAbout(new THREE.Vector3(1, 0, 0).applyQuaternion(this.lens.quaternion), upward / steps);
    }
    this.moved();
  }

  turnAbout(axis, angle) {
    const offset = this.lens.position.clone().sub(this.pivot);
    const to = offset.clone().applyAxisAngle(axis, angle).add(this.pivot);
    const turn = new THREE.Quaternion().setFromAxisAngle(axis, angle * this.limits.share(this.lens.position, to));
    this.lens.position.copy(offset.applyQuaternion(turn).add(this.pivot));
    this.lens.quaternion.premultiply(turn).normalize();
  }

  // The direction of a pixel of the canvas, of length 1 along the view axis.
  ray(x, y) {
    const at = new THREE.Vector3((2 * x) / this.width - 1, 1 - (2 * y) / this.height, 0.5);
    at.applyMatrix4(this.lens.projectionMatrixInverse);
    return at.divideScalar(-at.z).applyQuaternion(this.lens.quaternion);
  }

  // Move so that what lies at the pivot's depth follows the hand, from one pixel to another.
  pan(from, to) {
    const step = this.ray(...from).sub(this.ray(...to)).multiplyScalar(this.depth);
    this.move(step);
  }

  // Scale the distance to what lies under a pixel, at the pivot's depth.
  zoom(factor, x, y) {
    const scale = factor > 1 ? factor ** this.limits.backwardShare(this.lens.position) : factor;
    const step = this.ray(x, y).multiplyScalar(this.depth * (1 - scale));
    const forward = this.forward;
    // What one turns about stays where it is in the picture.
    this.pivot.add(step).addScaledVector(forward, -step.dot(forward));
    this.lens.position.add(step);
    this.moved();
  }

  move(step) {
    this.lens.position.add(step);
    this.pivot.add(step);
    this.moved();
  }

  // Glide to where a point is in the middle and nearer, and turn about it from now on.
  focus(point) {
    const distance = point.clone().sub(this.lens.position).dot(this.forward);
    if (distance <= 0) return;
    this.pivot.copy(point);
    const to = point.clone().addScaledVector(this.forward, -distance * NEARER);
    this.gliding = { from: this.lens.position.clone(), to, share: 0 };
  }

  // Go on for some seconds: gliding, or flying while keys are held.
  advance(seconds) {
    if (this.gliding) {
      const { from, to, share } = this.gliding;
      const next = Math.min(1, share + seconds / GLIDE);
      this.lens.position.lerpVectors(from, to, THREE.MathUtils.smoothstep(next, 0, 1));
      this.gliding = next < 1 ? { from, to, share: next } : null;
      this.moved();
    }
    const step = new THREE.Vector3();
    for (const key of this.keys) step.add(new THREE.Vector3(...FLY[key]));
    if (!step.lengthSq()) return;
    this.gliding = null;
    this.move(step.applyQuaternion(this.lens.quaternion).multiplyScalar(this.depth * 0.6 * seconds));
  }

  key(name, down) {
    if (!(name in FLY)) return false;
    down ? this.keys.add(name) : this.keys.delete(name);
    return true;
  }

  setFov(degrees) {
    this.fov = degrees;
    this.fit();
    this.moved();
  }

  // In the scene's own place: the page draws it around its center (export.py). The target lies on
  // the view axis, where the pivot is beside it.
  get state() {
    if (this.told) return this.told; // not what rounding makes of it
    const place = (point) => point.clone().add(this.center).toArray();
    return {
      position: place(this.lens.position),
      target: place(this.lens.position.clone().addScaledVector(this.forward, this.depth)),
      quaternion: this.lens.quaternion.toArray(),
      fov: this.fov,
    };
  }

  set state({ position, target, quaternion, fov }) {
    this.gliding = null;
    this.lens.position.fromArray(position).sub(this.center);
    this.pivot.fromArray(target).sub(this.center);
    this.lens.up.copy(this.up);
    if (quaternion) this.lens.quaternion.fromArray(quaternion);
    else this.lens.lookAt(this.pivot);
    if (fov) this.fov = fov;
    this.fit();
    this.moved();
    if (quaternion && fov) this.told = { position, target, quaternion, fov };
  }
}
