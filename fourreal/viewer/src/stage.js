// Spark's part: the static Gaussians once, the dynamic ones of one time, drawn as gsplat's classic
// mode does. World axes are OpenCV's; three.js has y up, so the splats are turned about x.
import { PackedSplats, SparkRenderer, SplatMesh, utils } from "@sparkjsdev/spark";
import * as THREE from "three";

const LN_SCALE = [-12, 9]; // as in export.py

export class Stage {
  constructor(canvas, about, staticSplats) {
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: false, preserveDrawingBuffer: true });
    this.about = about;
    this.staticSplats = staticSplats;
    this.capacity = Math.max(1, ...about.dynamic);
    this.dynamicSplats = new Uint32Array(4 * this.capacity);
    this.splatScale = 1;
    this.highlighted = false;
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
    });
    this.scene.add(this.spark);
    this.static = this.about.static ? this.mesh(this.staticSplats) : null;
    this.dynamic = this.mesh(this.dynamicSplats);
    this.setScale(this.splatScale);
    this.setHighlight(this.highlighted);
  }

  mesh(packedArray) {
    const numSplats = packedArray.length / 4;
    // Spark takes arrays of the size of its textures, whole rows.
    const whole = new Uint32Array(4 * utils.getTextureSize(numSplats).maxSplats);
    whole.set(packedArray);
    const packedSplats = new PackedSplats({ packedArray: whole, numSplats });
    const mesh = new SplatMesh({ packedSplats });
    mesh.quaternion.set(1, 0, 0, 0);
    this.scene.add(mesh);
    return mesh;
  }

  showTime(splats) {
    this.dynamicSplats.fill(0); // opacity 0 beyond the Gaussians of this time
    this.dynamicSplats.set(splats);
    this.dynamic.packedSplats.packedArray.set(this.dynamicSplats);
    this.dynamic.packedSplats.needsUpdate = true;
    this.dynamic.updateVersion();
  }

  setScale(scale) {
    // A factor on all scales is a shift of the range that their bytes stand for.
    this.splatScale = scale;
    const [low, high] = LN_SCALE.map((x) => x + Math.log(scale));
    for (const mesh of [this.static, this.dynamic])
      if (mesh) {
        mesh.packedSplats.splatEncoding = { rgbMin: 0, rgbMax: 1, lnScaleMin: low, lnScaleMax: high };
        mesh.updateVersion();
      }
  }

  setHighlight(on) {
    this.highlighted = on;
    if (!this.static) return;
    this.static.recolor.setScalar(on ? 0.3 : 1);
    this.static.updateVersion();
  }

  resize(width, height) {
    this.renderer.setPixelRatio(window.devicePixelRatio);
    this.renderer.setSize(width, height, false);
  }

  async draw(camera) {
    camera.updateMatrixWorld();
    await this.spark.update({ scene: this.scene, camera }); // waits for the order of the splats
    if (this.renderer.getContext().isContextLost()) return;
    this.renderer.setClearColor(this.background, 1);
    this.renderer.render(this.scene, camera);
  }
}
