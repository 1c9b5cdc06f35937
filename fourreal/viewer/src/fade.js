// A modifier of splats that fades out the edges of what the input cameras saw. What lies at the
// border of their pictures is torn when it is seen from elsewhere.
import { dyno } from "@sparkjsdev/spark";

const BAND = 0.5; // of half a picture, along its border, in which Gaussians fade
const POWER = 3; // many lie behind each other, and only what lets their sum through fades it
const MOST = 64; // cameras that are asked

// `amount`, a dyno float: 0 leaves the splats as they are, 1 fades them fully. Nothing is to be faded
// where no camera saw anything.
export function fadeOut(about, amount) {
  if (!about.orbit.seen.length) return undefined;
  return dyno.dynoBlock({ gsplat: dyno.Gsplat }, { gsplat: dyno.Gsplat }, ({ gsplat }) => {
    const { center, opacity } = dyno.splitGsplat(gsplat).outputs;
    const { share } = insideShare(about).apply({ center, amount });
    return { gsplat: dyno.combineGsplat({ gsplat, opacity: dyno.mul(opacity, share) }) };
  });
}

// The largest share that any camera leaves of a point: none at its picture's border and outside,
// all from BAND inward.
function insideShare(about) {
  const rows = projections(about);
  const array = (name, i) =>
    `const vec4 ${name}[${rows.length}] = vec4[${rows.length}](${rows.map((row) => `vec4(${row[i].map(float)})`)});`;
  const globals = `
    ${array("SEEN_X", 0)} ${array("SEEN_Y", 1)} ${array("SEEN_Z", 2)}
    float seenShare(vec3 center) {
      vec4 point = vec4(center, 1.0);
      float most = 0.0;
      for (int i = 0; i < ${rows.length}; i++) {
        float depth = dot(SEEN_Z[i], point);
        vec2 place = abs(vec2(dot(SEEN_X[i], point), dot(SEEN_Y[i], point))) / depth;
        if (depth > 0.0) most = max(most, 1.0 - max(place.x, place.y));
      }
      return pow(smoothstep(0.0, ${float(BAND)}, most), ${float(POWER)});
    }`;
  return dyno.dyno({
    inTypes: { center: "vec3", amount: "float" },
    outTypes: { share: "float" },
    globals: () => [globals],
    statements: ({ inputs: { center, amount }, outputs: { share } }) => [
      `${share} = ${amount} > 0.0 ? mix(1.0, seenShare(${center}), ${amount}) : 1.0;`,
    ],
  });
}

const float = (x) => (Number.isInteger(x) ? `${x}.0` : `${x}`);

// Three rows per camera: x and y of its picture, -1 to 1, times the depth, and the depth.
function projections({ orbit, extrinsics, intrinsics, width, height }) {
  const step = Math.ceil(orbit.seen.length / MOST);
  return orbit.seen
    .filter((_, i) => i % step === 0)
    .map((view) => {
      const [[fx, , cx], [, fy, cy]] = intrinsics[view];
      const [x, y, z] = extrinsics[view];
      const row = (axis, focal, middle, size) =>
        axis.map((value, i) => (2 * (focal * value + middle * z[i])) / size - z[i]);
      return [row(x, fx, cx, width), row(y, fy, cy, height), z];
    });
}
