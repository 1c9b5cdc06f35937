// The camera: orbit, pan, zoom and touch by OrbitControls, flying by keys, and the input cameras.
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";

const FLY = { w: [0, 0, -1], s: [0, 0, 1], a: [-1, 0, 0], d: [1, 0, 0], q: [0, -1, 0], e: [0, 1, 0] };

export class Camera {
  constructor(canvas, about, onMove) {
    this.about = about;
    const [x, y, z] = about.center;
    this.center = new THREE.Vector3(x, -y, -z); // in three.js axes
    this.lens = new THREE.PerspectiveCamera(50, 1, 0.01, 10000);
    this.controls = new OrbitControls(this.lens, canvas);
    this.controls.zoomToCursor = true;
    this.controls.addEventListener("change", () => onMove());
    this.controls.addEventListener("start", () => (this.dragging = true));
    this.controls.addEventListener("end", () => (this.dragging = false));
    this.keys = new Set();
    this.onMove = onMove;
    this.snap(0);
  }

  snap(view) {
    const { extrinsics, intrinsics, depths, width, height } = this.about;
    const [r0, r1, r2] = extrinsics[view];
    // Camera to world is the transpose; y and z of both the camera and the world are turned.
    const flip = [1, -1, -1];
    const axes = [r0, r1, r2].map((row, i) => new THREE.Vector3(...row.slice(0, 3).map((x, j) => x * flip[i] * flip[j])));
    const rotation = new THREE.Matrix4().makeBasis(...axes);
    const offset = [r0, r1, r2].map((row, i) => row[3] * flip[i]);
    this.lens.quaternion.setFromRotationMatrix(rotation);
    this.lens.position.set(0, 0, 0);
    axes.forEach((axis, i) => this.lens.position.addScaledVector(axis, -offset[i]));
    this.controls.target.copy(this.lens.position).addScaledVector(axes[2], -depths[view]);
    this.lens.up.copy(axes[1]);
    // OrbitControls keeps the axis that it turns about from its making.
    this.controls._quat.setFromUnitVectors(this.lens.up, new THREE.Vector3(0, 1, 0));
    this.controls._quatInverse.copy(this.controls._quat).invert();
    const [[fx, , cx], [, fy, cy]] = intrinsics[view];
    this.fov = 2 * Math.atan(height / (2 * fy)) * (180 / Math.PI);
    this.optics = { ratio: fx / fy, x: 1 - (2 * cx) / width, y: (2 * cy) / height - 1 };
    this.moved = false;
    this.fit();
    this.onMove();
  }

  // The image of the input cameras lies whole in the middle of the canvas.
  fit(width = this.width, height = this.height) {
    Object.assign(this, { width, height });
    if (!width) return;
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

  fly(seconds) {
    const step = new THREE.Vector3();
    for (const key of this.keys) step.add(new THREE.Vector3(...FLY[key]));
    if (!step.lengthSq()) return;
    const speed = this.lens.position.distanceTo(this.controls.target) * 0.6 * seconds;
    step.applyQuaternion(this.lens.quaternion).multiplyScalar(speed);
    this.lens.position.add(step);
    this.controls.target.add(step);
    this.onMove();
  }

  key(name, down) {
    if (!(name in FLY)) return false;
    down ? this.keys.add(name) : this.keys.delete(name);
    return true;
  }

  // In the scene's own place: the page draws it around its center (export.py).
  get state() {
    const place = (point) => point.clone().add(this.center).toArray();
    return {
      position: place(this.lens.position),
      target: place(this.controls.target),
      quaternion: this.lens.quaternion.toArray(),
      fov: this.fov,
    };
  }

  set state({ position, target, quaternion, fov }) {
    this.lens.position.fromArray(position).sub(this.center);
    this.controls.target.fromArray(target).sub(this.center);
    if (quaternion) this.lens.quaternion.fromArray(quaternion);
    else this.lens.lookAt(this.controls.target);
    if (fov) this.fov = fov;
    this.fit();
    this.onMove();
  }
}
