// Spark's part: the static Gaussians once, the dynamic ones of one time, drawn as gsplat's classic
// mode does. World axes are OpenCV's; three.js has y up, so the splats are turned about x.
import { dyno, PackedSplats, SparkRenderer, SplatMesh, utils } from "@sparkjsdev/spark";
import * as THREE from "three";
import { fadeOut } from "./fade.js";

const LN_SCALE = [-12, 9]; // as in export.py
const WORDS = [4, 2, 4, 4]; // of a Gaussian: packed, and its harmonics of degree 1, 2 and 3

export class Stage {
  constructor(canvas, about, staticSplats) {
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: false, preserveDrawingBuffer: true });
    this.renderer.autoClear = false; // draw() clears
    this.about = about;
    this.staticSplats = staticSplats;
    this.splatScale = 1;
    this.highlighted = false;
    this.faded = dyno.dynoFloat(0); // how far the edges of what was seen are faded out, 0 to 1
    this.background = new THREE.Color("#000000");
    this.build();
  }

  // Also after a lost context: Spark keeps state on the GPU that must be made again.
  build() {
    this.scene = new THREE.Scene();
    this.spark = new SparkRenderer({
      renderer: this.renderer,
      autoUpdate: false,
      // gsplat's classic mode: 0.3 px^2 without a change of opacity, cut at 3.33 sigma and 1/255.
      preBlurAmount: 0.3,
      blurAmount: 0,
      maxStdDev: 3.33,
      minAlpha: 1 / 255,
      sortRadial: false,
      accumExtSplats: this.about.degree > 0, // harmonics lead beyond 0..1, what bytes can hold
    });
    this.scene.add(this.spark);
    this.static = this.about.static ? this.mesh(this.about.static) : null;
    if (this.static) this.fill(this.static, this.staticSplats, this.about.static);
    this.dynamic = this.mesh(Math.max(1, ...this.about.dynamic));
    this.setScale(this.splatScale);
    this.setHighlight(this.highlighted);
  }

  // A mesh of so many splats, all of opacity 0.
  mesh(numSplats) {
    // Spark takes arrays of the size of its textures, whole rows.
    const { maxSplats } = utils.getTextureSize(numSplats);
    const planes = WORDS.slice(0, this.about.degree + 1).map((words) => new Uint32Array(words * maxSplats));
    const [packedArray, sh1, sh2, sh3] = planes;
    const packedSplats = new PackedSplats({ packedArray, numSplats, extra: { sh1, sh2, sh3 } });
    const mesh = new SplatMesh({ packedSplats, objectModifier: fadeOut(this.about, this.faded) });
    mesh.planes = planes;
    mesh.quaternion.set(1, 0, 0, 0);
    this.scene.add(mesh);
    return mesh;
  }

  // Put the `count` Gaussians of a part of the scene (export.py) into a mesh.
  fill(mesh, part, count) {
    let begin = 0;
    mesh.planes.forEach((plane, degree) => {
      const end = begin + WORDS[degree] * count;
      plane.set(part.subarray(begin, end));
      if (degree === 0) plane.fill(0, end); // opacity 0 beyond them
      begin = end;
    });
    const { extra } = mesh.packedSplats;
    for (const texture of [extra.sh1Texture, extra.sh2Texture, extra.sh3Texture])
      if (texture) texture.value.needsUpdate = true;
    mesh.packedSplats.needsUpdate = true;
    mesh.updateVersion();
  }

  showTime(time, splats) {
    this.fill(this.dynamic, splats, this.about.dynamic[time]);
  }

  setScale(scale) {
    // A factor on all scales is a shift of the range that their bytes stand for.
    this.splatScale = scale;
    const [low, high] = LN_SCALE.map((x) => x + Math.log(scale));
    const [darkest, brightest] = this.about.color_range;
    for (const mesh of [this.static, this.dynamic])
      if (mesh) {
        mesh.packedSplats.splatEncoding = { rgbMin: darkest, rgbMax: brightest, lnScaleMin: low, lnScaleMax: high };
        mesh.updateVersion();
      }
  }

  setHighlight(on) {
    this.highlighted = on;
    if (!this.static) return;
    this.static.recolor.setScalar(on ? 0.3 : 1);
    this.static.updateVersion();
  }

  setFaded(share) {
    if (this.faded.value === share) return;
    this.faded.value = share;
    for (const mesh of [this.static, this.dynamic]) mesh?.updateVersion();
  }

  // The nearest point that is seen at a pixel, in normalized device coordinates, or null.
  pick(x, y, camera) {
    const caster = new THREE.Raycaster();
    caster.setFromCamera(new THREE.Vector2(x, y), camera);
    const hits = caster.intersectObjects([this.static, this.dynamic].filter(Boolean), false);
    return hits.length ? hits[0].point : null;
  }

  resize(width, height) {
    this.renderer.setPixelRatio(window.devicePixelRatio);
    this.renderer.setSize(width, height, false);
    this.height = height;
  }

  // Draw what a camera sees inside a rectangle of the canvas { left, top, width, height }; around it
  // is the background.
  async draw(camera, { left, top, width, height }) {
    camera.updateMatrixWorld();
    await this.spark.update({ scene: this.scene, camera }); // waits for the order of the splats
    const { renderer } = this;
    if (renderer.getContext().isContextLost()) return;
    renderer.setClearColor(this.background, 1);
    renderer.setScissorTest(false);
    renderer.clear();
    renderer.setScissor(left, this.height - top - height, width, height);
    renderer.setScissorTest(true);
    renderer.render(this.scene, camera);
  }
}
