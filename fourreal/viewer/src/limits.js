// The part of the sphere around the scene's centre that the input cameras saw (fourreal.cameras'
// Coverage), and the resistance that a camera meets on its way out of it.
import { MathUtils } from "three";
import { fromOpenCV } from "./vectors.js";

const SOFT = 15 * MathUtils.DEG2RAD; // beyond the border, where the resistance is complete
const FARTHEST = 3; // distances of the farthest input camera

export class Limits {
  constructor({ target, limits }) {
    this.on = true;
    this.target = fromOpenCV(target);
    this.limits = limits; // null where no camera saw the scene: then none is in the wrong place
    [this.right, this.up, this.toward] = limits?.axes.map(fromOpenCV) ?? [];
  }

  // The angle in radians by which a position is outside of what was seen.
  excess(position) {
    const { low, high } = this.limits;
    const offset = position.clone().sub(this.target);
    const azimuth = Math.atan2(offset.dot(this.right), offset.dot(this.toward));
    const elevation = Math.asin(MathUtils.clamp(offset.dot(this.up) / (offset.length() || 1), -1, 1));
    const allAround = high[0] - low[0] > 2 * (Math.PI - SOFT);
    const beside = allAround ? 0 : outside(azimuth, low[0], high[0]);
    return Math.hypot(beside, outside(elevation, low[1], high[1]));
  }

  // The share (0 to 1) of a step from one position to another that is left of it.
  share(from, to) {
    if (!this.on || !this.limits) return 1;
    const before = this.excess(from);
    if (this.excess(to) <= before) return 1;
    return Math.max(0, 1 - before / SOFT);
  }

  // The same for the exponent of a step backward, which no limit of an angle stops.
  backwardShare(position) {
    if (!this.on || !this.limits) return 1;
    const distance = position.distanceTo(this.target);
    return MathUtils.clamp(1 - Math.log(distance / this.limits.high[2]) / Math.log(FARTHEST), 0, 1);
  }
}

const outside = (value, low, high) => Math.max(0, low - value, value - high);
