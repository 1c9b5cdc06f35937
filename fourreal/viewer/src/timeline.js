// The timeline: play, step and scrub, and the keyframes of the camera path as marks on it. A click
// on a mark goes there, a drag moves it, Delete removes it.
import { $ } from "./page.js";

const PLAY = "M4 2v12l10-6z";
const PAUSE = "M3 2h4v12H3zM9 2h4v12H9z";

export function connectTimeline(viewer) {
  const { state } = viewer;
  $("time").max = viewer.length - 1;
  // The slider's value is read before play(false) puts the slider back.
  $("time").oninput = () => viewer.stopAt(Number($("time").value));
  $("play").onclick = () => viewer.play(!state.playing);
  $("back").onclick = () => viewer.stopAt(state.time - 1);
  $("next").onclick = () => viewer.stopAt(state.time + 1);
  $("key").onclick = () => viewer.editPath((path) => path.set(state.time, viewer.camera.state));
  $("unkey").onclick = () => viewer.editPath((path) => path.remove(path.near(state.time)?.time));
  $("along").onclick = () => viewer.goAlong(!state.along);
  viewer.onChange(() => show(viewer));
}

function show(viewer) {
  const { state, count, length, about, path } = viewer;
  $("play").querySelector("path").setAttribute("d", state.playing ? PAUSE : PLAY);
  $("clock").textContent = count > 1 ? `${state.time + 1} / ${count}` : `${(state.time / about.fps).toFixed(1)} s`;
  $("time").value = state.time;
  $("unkey").disabled = !path.near(state.time);
  $("along").disabled = !path.keyframes.length;
  $("along").classList.toggle("on", state.along);
  const marks = $("marks");
  while (marks.children.length > path.keyframes.length) marks.lastChild.remove();
  while (marks.children.length < path.keyframes.length) marks.append(newMark(viewer));
  path.keyframes.forEach(({ time }, i) => {
    const mark = marks.children[i];
    mark.time = time;
    mark.title = `Keyframe at ${time + 1}: drag to move, Delete to remove`;
    mark.classList.toggle("on", Math.round(time) === state.time);
    put(mark, time, length);
  });
}

// Where the slider's thumb is at that time, too.
const put = (mark, time, length) => mark.style.setProperty("--share", length > 1 ? time / (length - 1) : 0);

function newMark(viewer) {
  const mark = document.createElement("button");
  let moved = null; // the time that it is dragged to
  mark.onpointerdown = (event) => {
    mark.setPointerCapture(event.pointerId);
    moved = mark.time;
  };
  mark.onpointermove = (event) => {
    if (moved === null) return;
    const { left, width } = $("marks").getBoundingClientRect();
    const last = viewer.length - 1;
    moved = Math.min(last, Math.max(0, Math.round(((event.clientX - left) / width) * last)));
    put(mark, moved, viewer.length);
  };
  mark.onpointerup = () => {
    if (moved === mark.time) viewer.goTo(moved);
    else if (moved !== null) move(viewer, mark.time, moved);
    moved = null;
  };
  mark.onpointercancel = () => {
    moved = null;
    put(mark, mark.time, viewer.length);
  };
  mark.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") viewer.editPath((path) => path.remove(mark.time));
    else if (step) move(viewer, mark.time, Math.min(viewer.length - 1, Math.max(0, mark.time + step)));
    else if (event.key === "Enter") viewer.goTo(mark.time);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return mark;
}

function move(viewer, from, to) {
  viewer.editPath((path) => path.move(from, to));
  viewer.goTo(to);
  [...$("marks").children].find((mark) => mark.time === to)?.focus();
}
