// The widget of Preview 4D: the viewer page in a frame. It shows the newest result of its node, and
// keeps what the page reports (where one looks from, keyframes) in the node's properties. What it
// showed is not kept there: a workflow that each run changes would be saved, undone and queued anew.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const STATE = "Viewer state"; // { time, view, camera, path }, as the page reports it
const IDENTITY = "Viewer id"; // of this node and its copies
const SETTLED = 500; // milliseconds without a change until the workflow counts as changed
const SHOWN = "fourreal.shown"; // in the browser's storage: by owner, { folder, at }
const REMEMBERED = 64; // of them, the newest; at: when they were shown or made
const LOOKED_AT = 32; // jobs of the history, the newest
const SIZE = [420, 480]; // of a new node
const NEVER_RUN = "Run the workflow to see the scene.";
const GONE = "The files of this scene are no longer kept. Run the workflow again to see it.";

const views = new Set(); // of the nodes that there are
const refreshAll = () => views.forEach((view) => view.refresh());

// What the results of a node say whose they are: the editor gives a job's results to the node of that
// number in whichever workflow is in front. Undefined until it is queued for the first time.
function ownerOf(node) {
  const identity = node.properties[IDENTITY];
  return identity && `${identity}/${node.id}`;
}

// The newest result of a node in the history, with the time of its job's end. The job may have ended
// while no page was open.
async function newestInHistory(node) {
  if (!ownerOf(node)) return;
  const history = await (await api.fetchApi(`/history?max_items=${LOOKED_AT}`)).json();
  for (const { outputs, status } of Object.values(history).reverse()) {
    const scenes = Object.values(outputs ?? {}).flatMap(({ fourreal_scene = [] }) => fourreal_scene);
    const scene = scenes.findLast(({ owner }) => owner === ownerOf(node));
    if (scene) return { ...scene, at: status?.messages?.at(-1)?.[1]?.timestamp ?? 0 };
  }
}

// The result that the editor has of a node: { folder (of output), owner }. That of a prompt
// which no widget has made is nobody's.
function newestInEditor(node) {
  const place = node.graph?.isRootGraph === false ? `${node.graph.id}:${node.id}` : `${node.id}`;
  const scenes = app.nodeOutputs?.[place]?.fourreal_scene;
  return scenes?.findLast(({ owner }) => !owner || owner === ownerOf(node));
}

const shown = () => JSON.parse(localStorage.getItem(SHOWN) ?? "{}");

function remember(owner, scene) {
  if (!owner) return;
  const entries = Object.entries({ ...shown(), [owner]: scene }).sort(([, a], [, b]) => b.at - a.at);
  localStorage.setItem(SHOWN, JSON.stringify(Object.fromEntries(entries.slice(0, REMEMBERED))));
}

async function isKept({ folder }) {
  const name = encodeURIComponent(folder.split("/").at(-1));
  return (await api.fetchApi(`/fourreal/viewer/kept/${name}`)).json();
}

function make(tag, style) {
  const element = document.createElement(tag);
  Object.assign(element.style, style);
  return element;
}

class View {
  constructor(node) {
    this.node = node;
    this.asked = 0; // how often it was asked what to show
    this.element = make("div", { width: "100%", height: "100%", background: "#000", color: "#999", position: "relative" });
    this.note = make("div", { position: "absolute", inset: "0", display: "grid", placeItems: "center", textAlign: "center", padding: "12px" });
    this.frame = make("iframe", { position: "absolute", width: "100%", height: "100%", border: "0" });
    this.frame.allow = "fullscreen";
    this.frame.title = "4D viewer";
    this.note.textContent = NEVER_RUN;
    this.element.append(this.note);
    this.hear = this.hear.bind(this);
    window.addEventListener("message", this.hear);
    views.add(this);
  }

  remove() {
    this.asked = NaN; // no answer is the last one's any more
    views.delete(this);
    clearTimeout(this.settling);
    window.removeEventListener("message", this.hear);
    this.frame.remove();
  }

  // What the page has reported.
  get seen() {
    const state = this.node.properties[STATE];
    return state && { ...state.camera, time: state.time, view: state.view, path: state.path ?? [] };
  }

  hear({ source, data }) {
    if (source !== this.frame.contentWindow || !source) return;
    const { type, ...state } = data ?? {};
    if (type === "fourreal:ready") this.restore(source);
    else if (type === "fourreal:state") this.keep(state);
  }

  restore(page) {
    if (!this.node.properties[STATE]) return;
    const { time, view, camera, path = [] } = this.node.properties[STATE];
    const set = (part) => page.postMessage({ type: "fourreal:set", ...part }, location.origin);
    set({ time, camera, path });
    if (view >= 0) set({ view }); // a scene that has no such view stays at the camera
  }

  keep(state) {
    if (JSON.stringify(this.node.properties[STATE]) === JSON.stringify(state)) return;
    this.node.properties[STATE] = state;
    clearTimeout(this.settling);
    this.settling = setTimeout(
      () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
      SETTLED,
    );
  }

  // Show what is to be shown now, when the editor has done what it is at.
  refresh() {
    setTimeout(() => this.showNewest());
  }

  // The result that the editor has of this node; without one, as after a reload, the newest of the
  // history or the one that was shown last.
  async showNewest() {
    const { node } = this;
    const turn = ++this.asked;
    const result = newestInEditor(node);
    let scene = result && { ...result, at: Date.now() };
    if (!scene) {
      const last = shown()[ownerOf(node)];
      const newest = await newestInHistory(node);
      scene = newest && newest.at > (last?.at ?? 0) ? newest : last;
    }
    const kept = scene && (await isKept(scene));
    if (turn !== this.asked || !scene) return; // it was asked again, or the node is gone
    remember(ownerOf(node), { folder: scene.folder, at: scene.at });
    if (kept) this.show(scene);
    else {
      this.note.textContent = GONE;
      this.frame.remove();
    }
  }

  show({ folder }) {
    const place = new URLSearchParams({ type: "output", subfolder: folder, filename: "" });
    const files = api.apiURL(`/view?${place}`);
    const page = api.apiURL(`/fourreal/viewer?${new URLSearchParams({ scene: files })}`);
    if (this.frame.getAttribute("src") !== page) this.frame.src = page;
    if (!this.frame.isConnected) this.element.append(this.frame);
  }
}

function createWidget(node, name) {
  const view = new View(node);
  const widget = node.addDOMWidget(name, "FOURREAL_VIEW", view.element, {
    hideOnZoom: false,
    getMinHeight: () => 320,
    getValue: () => view.seen,
  });
  widget.serialize = false; // in the properties, not among the widgets' values
  widget.serializeValue = () => {
    const owner = ownerOf(node);
    return owner ? { owner, ...view.seen } : view.seen;
  };
  widget.beforeQueued = () => {
    node.properties[IDENTITY] ??= `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  };
  const { onExecuted, onConfigure, onRemoved } = node;
  const then = (before, act) =>
    function () {
      before?.apply(this, arguments);
      act();
    };
  node.onExecuted = then(onExecuted, () => view.refresh());
  node.onConfigure = then(onConfigure, () => view.refresh());
  node.onRemoved = then(onRemoved, () => view.remove());
  return { widget };
}

app.registerExtension({
  name: "fourreal.preview4d",
  getCustomWidgets: () => ({ FOURREAL_VIEW: createWidget }),
  // Here, as the editor chooses a size after it has made the widgets.
  nodeCreated(node) {
    if (node.comfyClass !== "FourReal_Preview4D") return;
    node.setSize([0, 1].map((side) => Math.max(node.size[side], SIZE[side])));
  },
  // Also told when results come back with a workflow: from another tab, or from the history.
  onNodeOutputsUpdated: refreshAll,
  // A job that is queued before the editor has its connection, as after a reload, tells it no results.
  setup: () =>
    api.addEventListener("status", ({ detail }) => {
      if (detail?.exec_info?.queue_remaining === 0) refreshAll();
    }),
});
