// What others make of a .glb file, as JSON: Khronos' validator's errors, and the centres,
// covariances, colours and harmonics that three.js' loader has of its splats.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

globalThis.self = globalThis; // the loader looks for a browser's window

const require = createRequire(import.meta.url);
const { validateBytes } = require("gltf-validator");
const { GLTFLoader } = await import("three/addons/loaders/GLTFLoader.js");
const { GLTFGaussianSplatLoaderExtension } = await import(
  "three/addons/loaders/GLTFGaussianSplatLoaderExtension.js"
);

const bytes = new Uint8Array(readFileSync(process.argv[2]));
const report = await validateBytes(bytes);
const errors = report.issues.messages.filter((message) => message.severity === 0);

const loader = new GLTFLoader();
loader.register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
const gltf = await loader.parseAsync(bytes.buffer.slice(0), "");
const splats = [];
gltf.scene.traverse((object) => {
  if (object.isGaussianSplat) splats.push(object);
});
const stored = splats[0].splatGeometry.attributes;
const attributes = Object.fromEntries(
  Object.entries(stored).map(([name, attribute]) => [name, Array.from(attribute.array)]),
);
console.log(JSON.stringify({ errors, count: splats.length, attributes }));
