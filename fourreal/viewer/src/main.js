// The page: a clock, the controls, and a loop that draws only what has changed.
//
// A page that embeds this one in a frame may talk to it with messages:
//   { type: "fourreal:set", time?, view?, playing?, camera? } changes the state;
//   { type: "fourreal:ready", ... } is sent to it once, when it may be answered;
//   { type: "fourreal:state", time, view, camera } is sent to it after each change.
// view: the input camera that is looked through, from 0, or -1.
// camera: { position, target, quaternion (x, y, z, w), fov (degrees, vertical) }, three.js axes.
import { Camera } from "./camera.js";
import { openSource, Ring } from "./source.js";
import { Stage } from "./stage.js";

const PLAY = "M4 2v12l10-6z";
const PAUSE = "M3 2h4v12H3zM9 2h4v12H9z";
const $ = (id) => document.getElementById(id);

async function start() {
  const source = openSource();
  const about = JSON.parse(new TextDecoder().decode(await source("scene.json")));
  const stage = new Stage($("canvas"), about, new Uint32Array((await source("static.bin")).buffer));
  const ring = new Ring(source, about.dynamic.length);
  const count = about.dynamic.length;
  const state = { time: 0, shown: -1, playing: false, elapsed: 0, dirty: true, drawn: 0, busy: false, lost: false, ready: false };
  let camera = null;
  let view = 0;
  let overlay = "";
  camera = new Camera($("canvas"), about, () => {
    state.dirty = true;
    if (camera?.dragging || camera?.keys.size) leaveView();
  });

  function leaveView() {
    view = -1;
    $("fade").value = 0;
    marks();
  }

  function snap(index) {
    if (index < 0 || index >= about.extrinsics.length) return;
    view = index;
    camera.snap(index);
    $("fov").value = camera.fov;
    marks();
  }

  function marks() {
    [...$("views").children].forEach((b, i) => b.classList.toggle("on", i === view));
    $("play").querySelector("path").setAttribute("d", state.playing ? PAUSE : PLAY);
    $("clock").textContent = `${state.time + 1} / ${count}`;
    $("time").value = state.time;
    showFrame();
    if (state.ready) tell("fourreal:state");
  }

  function tell(type) {
    if (parent !== window)
      parent.postMessage({ type, time: state.time, view, camera: camera.state }, "*");
  }

  async function showFrame() {
    const image = $("frame");
    const fade = Number($("fade").value);
    image.style.opacity = view < 0 ? 0 : fade;
    const { left, top, width, height } = camera.rectangle ?? {};
    Object.assign(image.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    const name = `${view}_${state.time}.jpg`;
    if (!about.frames || view < 0 || fade === 0 || name === overlay) return;
    overlay = name;
    const url = URL.createObjectURL(new Blob([await source(name)], { type: "image/jpeg" }));
    image.onload = () => URL.revokeObjectURL(url);
    if (overlay === name) image.src = url;
  }

  function setTime(time) {
    state.time = ((time % count) + count) % count;
    state.elapsed = 0;
    state.dirty = true;
    marks();
  }

  function play(on) {
    if (on && state.time === count - 1 && !$("loop").checked) setTime(0);
    state.playing = on;
    marks();
  }

  function advance(seconds) {
    const held = $("hold").checked && (camera.dragging || camera.keys.size);
    if (!state.playing || held) return;
    state.elapsed += Math.min(seconds, 0.25) * about.fps * Number($("speed").value);
    if (state.elapsed < 1 || state.shown !== state.time) return; // never ahead of what is shown
    const next = state.time + Math.floor(state.elapsed);
    if (next >= count && !$("loop").checked) {
      setTime(count - 1);
      play(false);
    } else setTime(next);
  }

  function resize() {
    const { clientWidth, clientHeight } = $("stage");
    stage.resize(clientWidth, clientHeight);
    camera.fit(clientWidth, clientHeight);
    state.dirty = true;
    showFrame();
  }

  function screenshot() {
    save(new Promise((resolve) => $("canvas").toBlob(resolve)), "png");
  }

  let recorder = null;
  function record() {
    if (recorder) return recorder.stop();
    const chunks = [];
    recorder = new MediaRecorder($("canvas").captureStream(30), { mimeType: "video/webm" });
    recorder.ondataavailable = (event) => chunks.push(event.data);
    recorder.onstop = () => {
      recorder = null;
      $("record").textContent = "Record";
      save(Promise.resolve(new Blob(chunks, { type: "video/webm" })), "webm");
    };
    recorder.start();
    $("record").textContent = "Stop";
  }

  async function save(blob, suffix) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await blob);
    link.download = `4real_${String(state.time + 1).padStart(4, "0")}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function fullScreen() {
    document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
  }

  about.extrinsics.forEach((_, i) => {
    const button = document.createElement("button");
    button.textContent = i + 1;
    button.title = `Input camera ${i + 1}`;
    button.onclick = () => snap(i);
    $("views").append(button);
  });
  $("time").max = count - 1;
  $("time").oninput = () => {
    const time = Number($("time").value); // before play() puts the slider back
    play(false);
    setTime(time);
  };
  $("play").onclick = () => play(!state.playing);
  $("back").onclick = () => { play(false); setTime(state.time - 1); };
  $("next").onclick = () => { play(false); setTime(state.time + 1); };
  $("settings").onclick = () => ($("panel").hidden = !$("panel").hidden);
  $("full").onclick = fullScreen;
  $("screenshot").onclick = screenshot;
  $("record").onclick = record;
  $("fade").parentElement.hidden = !about.frames;
  $("fade").oninput = showFrame;
  $("scale").oninput = () => { stage.setScale(Number($("scale").value)); state.dirty = true; };
  $("fov").oninput = () => { camera.fov = Number($("fov").value); leaveView(); camera.fit(); state.dirty = true; };
  $("background").oninput = () => { stage.background.set($("background").value); state.dirty = true; };
  $("highlight").onchange = () => { stage.setHighlight($("highlight").checked); state.dirty = true; };

  const shortcuts = {
    " ": () => play(!state.playing),
    ",": () => $("back").click(),
    ".": () => $("next").click(),
    h: () => $("highlight").click(),
    f: fullScreen,
    p: screenshot,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const key = event.key.toLowerCase();
    if (camera.key(key, true)) leaveView();
    else if (key in shortcuts) shortcuts[key]();
    else if (key >= "1" && key <= "9") snap(Number(key) - 1);
    else return;
    event.preventDefault();
  });
  addEventListener("keyup", (event) => camera.key(event.key.toLowerCase(), false));
  addEventListener("blur", () => camera.keys.clear());
  new ResizeObserver(resize).observe($("stage"));
  $("canvas").addEventListener("webglcontextlost", () => (state.lost = true));
  $("canvas").addEventListener("webglcontextrestored", () => {
    stage.build();
    Object.assign(state, { lost: false, shown: -1, dirty: true });
  });
  addEventListener("message", ({ data, source: sender }) => {
    if (sender !== parent || data?.type !== "fourreal:set") return;
    if (data.view !== undefined) snap(data.view);
    if (data.camera) { leaveView(); camera.state = data.camera; }
    if (data.time !== undefined) setTime(data.time);
    if (data.playing !== undefined) play(data.playing);
  });

  let before = performance.now();
  let frames = 0;
  let since = before;
  async function loop(now) {
    const seconds = (now - before) / 1000;
    before = now;
    camera.fly(Math.min(seconds, 0.1));
    advance(seconds);
    if (state.dirty && !state.lost) {
      state.dirty = false;
      state.busy = true;
      const time = state.time;
      try {
        if (state.shown !== time) {
          stage.showTime(time, await ring.get(time));
          state.shown = time;
        }
        await stage.draw(camera.lens);
        $("status").textContent = "";
        state.drawn++;
        frames++;
        $("info").textContent = $("info").textContent || label(0);
      } catch (error) {
        // Spark rejects with nothing when the context is lost under its hands; it is made again.
        $("status").textContent = error?.message ?? "";
      }
      state.busy = false;
    }
    if (now - since > 1000) {
      $("info").textContent = label((frames * 1000) / (now - since));
      frames = 0;
      since = now;
    }
    requestAnimationFrame(loop);
  }
  const label = (fps) =>
    `${(about.static + about.dynamic[state.time]).toLocaleString("en")} Gaussians` + (fps ? `, ${fps.toFixed(0)} fps` : "");

  resize();
  snap(0);
  requestAnimationFrame(loop);
  state.ready = true;
  tell("fourreal:ready");
  // For whoever drives the page by program, such as its tests.
  window.fourreal = { state, camera, stage, snap, setTime, play, idle: () => !state.dirty && !state.busy && !state.lost };
}

start().catch((error) => ($("status").textContent = error?.message ?? "the viewer could not start"));
