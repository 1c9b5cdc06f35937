// Where the parts of a scene come from: elements of this page, or files beside a served scene.

async function embedded(name) {
  for (;;) {
    // A part stands in the page whole once something follows it, or the page is read.
    const element = document.getElementById(`part:${name}`);
    if (element && (element.nextElementSibling || document.readyState !== "loading"))
      return Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
    if (document.readyState !== "loading") throw new Error(`the page has no part ${name}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function served(address, name) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

// A function from the name of a part to its bytes. `?scene=` is the address of a served scene: a
// folder, or what ends in "=" and wants the name after it.
export function openSource() {
  if (document.getElementById("part:scene.json")) return embedded;
  const asked = new URLSearchParams(location.search).get("scene") ?? "./";
  const address = /[/=]$/.test(asked) ? asked : `${asked}/`;
  return (name) => served(new URL(address + name, location.href), name);
}

// The dynamic Gaussians of the times around the one that is shown, fetched ahead of the clock.
export class Ring {
  constructor(source, count, ahead = 8) {
    Object.assign(this, { source, count, ahead: Math.min(ahead, count - 1), slots: new Map() });
  }

  get(time) {
    if (!this.slots.has(time)) {
      const part = this.source(`${time}.bin`).then((bytes) => new Uint32Array(bytes.buffer));
      part.catch(() => this.slots.delete(time)); // ask again when it is shown again
      this.slots.set(time, part);
    }
    return this.slots.get(time);
  }

  // Fetch the times after this one, and forget those that are far from it.
  fetchAhead(time) {
    for (let i = 1; i <= this.ahead; i++) this.get((time + i) % this.count);
    for (const old of this.slots.keys()) {
      const distance = (old - time + this.count) % this.count;
      if (distance > this.ahead && distance !== this.count - 1) this.slots.delete(old);
    }
  }
}
