// Load Scene (4Real): a button, and dropping a file on the node, that upload into the input folder.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NODE = "FourReal_LoadScene";
let READ = []; // the suffixes that the node reads, as its definition says

const isScene = ({ name }) => READ.some((suffix) => name.toLowerCase().endsWith(suffix));

// The file's name as the list has it.
async function upload(file) {
  const body = new FormData();
  body.append("image", file); // the route's name for a file of any kind
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`${file.name} was not uploaded: the server says ${answer.status}.`);
  const { name, subfolder } = await answer.json();
  return subfolder ? `${subfolder}/${name}` : name;
}

async function take(node, file) {
  try {
    if (!isScene(file)) throw new Error(`${file.name} is none of ${READ.join(", ")}.`);
    const name = await upload(file);
    const list = node.widgets.find((widget) => widget.name === "scene_file");
    if (!list.options.values.includes(name)) list.options.values.unshift(name); // the newest first
    list.value = name;
    list.callback?.(name);
    node.setDirtyCanvas?.(true, true);
  } catch (error) {
    const told = { severity: "error", summary: "Load Scene (4Real)", detail: error.message, life: 8000 };
    app.extensionManager.toast.add(told);
  }
}

app.registerExtension({
  name: "fourreal.load_scene",
  beforeRegisterNodeDef(_, { name, input }) {
    if (name === NODE) READ = input.required.scene_file[1].suffixes;
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const picker = Object.assign(document.createElement("input"), { type: "file", accept: READ.join(",") });
    picker.onchange = () => {
      const [file] = picker.files;
      if (file) take(node, file);
      picker.value = ""; // so that the same file can be chosen again
    };
    const button = node.addWidget("button", "Upload", null, () => picker.click(), { serialize: false });
    button.serialize = false;
    node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some(({ kind }) => kind === "file");
    node.onDragDrop = (event) => {
      const file = [...event.dataTransfer.files].find(isScene);
      if (file) take(node, file);
      return Boolean(file);
    };
  },
});
