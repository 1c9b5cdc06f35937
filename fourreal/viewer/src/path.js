// A camera path through keyframes { time, camera } in the order of their times. Between them the
// camera follows Catmull-Rom splines, as fourreal.cameras.interpolate_cameras does; before the first
// and after the last it stands.

export class Path {
  keyframes = [];

  // The keyframe of a time, if there is one.
  find(time) {
    return this.keyframes.find((keyframe) => keyframe.time === time);
  }

  // The keyframe that is nearest to a whole time, if there is one.
  near(time) {
    return this.keyframes.find((keyframe) => Math.round(keyframe.time) === time);
  }

  // All keyframes anew; of several of one time the last counts.
  replace(keyframes) {
    this.keyframes = [...new Map(keyframes.map((keyframe) => [keyframe.time, keyframe])).values()];
    this.keyframes.sort((a, b) => a.time - b.time);
  }

  set(time, camera) {
    this.replace([...this.keyframes, { time, camera }]);
  }

  remove(time) {
    this.replace(this.keyframes.filter((keyframe) => keyframe.time !== time));
  }

  // Put a keyframe at another time; what was there goes.
  move(from, to) {
    const moved = this.find(from);
    if (!moved || from === to) return;
    this.remove(from);
    this.set(to, moved.camera);
  }

  // The camera at a time; there must be a keyframe.
  at(time) {
    const { keyframes } = this;
    const last = keyframes.length - 1;
    const next = keyframes.findIndex((keyframe) => keyframe.time > time);
    if (next <= 0) return keyframes[next < 0 ? last : 0].camera;
    const before = keyframes[next - 1].time;
    const share = (time - before) / (keyframes[next].time - before);
    const around = [-2, -1, 0, 1].map((i) => keyframes[Math.min(Math.max(next + i, 0), last)].camera);
    const quaternions = around.map(({ quaternion }) => quaternion);
    for (let i = 1; i < 4; i++) if (dot(quaternions[i], quaternions[i - 1]) < 0) quaternions[i] = quaternions[i].map((x) => -x);
    return {
      position: spline(around.map(({ position }) => position), share),
      target: spline(around.map(({ target }) => target), share),
      quaternion: normalized(spline(quaternions, share)),
      fov: spline(around.map(({ fov }) => [fov]), share)[0],
    };
  }
}

// Between the middle two of four vectors.
function spline([before, start, end, after], u) {
  return start.map(
    (_, i) =>
      0.5 *
      (2 * start[i] +
        (end[i] - before[i]) * u +
        (2 * before[i] - 5 * start[i] + 4 * end[i] - after[i]) * u ** 2 +
        (3 * start[i] - before[i] - 3 * end[i] + after[i]) * u ** 3),
  );
}

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const normalized = (q) => q.map((x) => x / Math.hypot(...q));
