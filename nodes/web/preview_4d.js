// The widget of Preview 4D: the viewer page in a frame. It shows the newest result of its node, and
// keeps what the page reports (where one looks from, keyframes) in the node's properties.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const STATE = "Viewer state"; // { time, view, camera, path }, as the page reports it
const SCENE = "Viewer scene"; // { subfolder, type, at } of the files; at: when they were made
const IDENTITY = "Viewer id"; // of this node and its copies
const SETTLED = 500; // milliseconds without a change until the workflow counts as changed
const LOOKED_AT = 32; // jobs of the history, the newest
const SIZE = [420, 480]; // of a new node
const NEVER_RUN = "Run the workflow to see the scene.";
const GONE = "The files of this scene are no longer kept. Run the workflow again to see it.";

const refreshers = new Set(); // of the widgets that there are

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

// The result that the editor has of a node: { filename, subfolder, type, owner }. That of a prompt
// which no widget has made is nobody's.
function newestInEditor(node) {
  const place = node.graph?.isRootGraph === false ? `${node.graph.id}:${node.id}` : `${node.id}`;
  const scenes = app.nodeOutputs?.[place]?.fourreal_scene;
  return scenes?.findLast(({ owner }) => !owner || owner === ownerOf(node));
}

async function isKept({ subfolder }) {
  const name = encodeURIComponent(subfolder.split("/").at(-1));
  return (await api.fetchApi(`/fourreal/viewer/kept/${name}`)).json();
}

function createWidget(node, name) {
  const element = document.createElement("div");
  const note = document.createElement("div");
  const frame = document.createElement("iframe");
  Object.assign(element.style, { width: "100%", height: "100%", background: "#000", color: "#999", position: "relative" });
  Object.assign(note.style, { position: "absolute", inset: "0", display: "grid", placeItems: "center", textAlign: "center", padding: "12px" });
  Object.assign(frame.style, { position: "absolute", width: "100%", height: "100%", border: "0" });
  frame.allow = "fullscreen";
  frame.title = "4D viewer";
  note.textContent = NEVER_RUN;
  element.append(note);

  const seen = () => {
    const state = node.properties[STATE];
    return state && { ...state.camera, time: state.time, view: state.view, path: state.path ?? [] };
  };
  const widget = node.addDOMWidget(name, "FOURREAL_VIEW", element, {
    hideOnZoom: false,
    getMinHeight: () => 320,
    getValue: seen,
  });
  widget.serialize = false; // in the properties, not among the widgets' values
  widget.serializeValue = () => {
    const owner = ownerOf(node);
    return owner ? { owner, ...seen() } : seen();
  };
  widget.beforeQueued = () => {
    node.properties[IDENTITY] ??= `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  };

  // The editor's shortcuts (Ctrl+Enter queues) also work while the keyboard is the page's.
  function pass({ key, code, ctrlKey, metaKey, shiftKey, altKey }) {
    const keys = { key, code, ctrlKey, metaKey, shiftKey, altKey };
    element.dispatchEvent(new KeyboardEvent("keydown", { ...keys, bubbles: true, cancelable: true }));
  }
  function hearKey(event) {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // the page would ask for the same
    pass(event);
  }
  frame.addEventListener("load", () => frame.contentWindow.addEventListener("keydown", hearKey, true));

  let settling;
  function hear({ source, data }) {
    if (source !== frame.contentWindow || !source) return;
    const { type, ...state } = data ?? {};
    if (type === "fourreal:ready" && node.properties[STATE]) {
      const { time, view, camera, path = [] } = node.properties[STATE];
      const set = (part) => source.postMessage({ type: "fourreal:set", ...part }, location.origin);
      set({ time, camera, path });
      if (view >= 0) set({ view }); // a scene that has no such view stays at the camera
    } else if (type === "fourreal:queue") {
      pass({ key: "Enter", code: "Enter", ctrlKey: true });
    } else if (type === "fourreal:state") {
      if (JSON.stringify(node.properties[STATE]) === JSON.stringify(state)) return;
      node.properties[STATE] = state;
      clearTimeout(settling);
      settling = setTimeout(
        () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
        SETTLED,
      );
    }
  }

  // What is to be shown: the result that the editor has of this node; without one, the newest of the
  // history, or the one that was shown last. The editor has none after a reload.
  let asked = 0;
  async function refresh() {
    const turn = ++asked;
    const result = newestInEditor(node);
    const last = node.properties[SCENE];
    let scene = result && { ...result, at: Date.now() };
    if (!scene) {
      const newest = await newestInHistory(node);
      scene = newest && newest.at > (last?.at ?? 0) ? newest : last;
    }
    const kept = scene && (await isKept(scene));
    if (turn !== asked || !scene) return; // another result, or the node's end, came between
    if (scene.subfolder !== last?.subfolder) {
      node.properties[SCENE] = { subfolder: scene.subfolder, type: scene.type, at: scene.at };
    }
    if (!kept) {
      note.textContent = GONE;
      frame.remove();
      return;
    }
    const { subfolder, type } = scene;
    const files = api.apiURL(`/view?${new URLSearchParams({ type, subfolder, filename: "" })}`);
    const page = api.apiURL(`/fourreal/viewer?${new URLSearchParams({ scene: files })}`);
    if (frame.getAttribute("src") !== page) frame.src = page;
    if (!frame.isConnected) element.append(frame);
  }
  const soon = () => setTimeout(refresh); // when the editor has done what it is at
  refreshers.add(soon);

  window.addEventListener("message", hear);
  const { onExecuted, onConfigure, onRemoved } = node;
  node.onExecuted = function () {
    onExecuted?.apply(this, arguments);
    soon();
  };
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    soon();
  };
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments);
    asked = NaN; // no turn is the last one any more
    refreshers.delete(soon);
    clearTimeout(settling);
    window.removeEventListener("message", hear);
    frame.remove();
  };
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
  onNodeOutputsUpdated: () => refreshers.forEach((soon) => soon()),
});
