// Dialogs that ask for the API key, or to confirm a write.

import { key } from "./api.js";
import { h, labelled } from "./dom.js";

// Resolve with the value of the button that closed the dialog; "" if it was dismissed.
function ask(title, content, buttons) {
  return new Promise((resolve) => {
    const form = h("form", { method: "dialog", submit: (event) => {
      event.preventDefault();
      dialog.close(event.submitter?.value ?? "");
    } }, h("h2", { id: "dialog-title" }, title), content, h("p", { class: "buttons" }, buttons));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", close: () => {
      dialog.remove();
      resolve(dialog.returnValue);
    } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

let asking = null;

// Ask for the key. All callers share one dialog. The key is kept for this tab only.
export function askForKey(refused) {
  asking ??= question(refused).finally(() => { asking = null; });
  return asking;
}

async function question(refused) {
  const input = h("input", { type: "password", name: "key", autocomplete: "off", required: true,
    spellcheck: "false",
    pattern: "\\s*[!-~]+\\s*", title: "Letters, digits and signs of ASCII, without spaces" });
  const chosen = await ask("This server wants an API key", [
    refused && h("p", { class: "error", role: "alert" }, "The server did not accept the key."),
    labelled("API key", input, { hint: "Kept in this tab until it is closed, and sent to this server only." }),
  ], [h("button", { value: "ok", class: "primary" }, "Use this key")]);
  if (chosen === "ok") key.set(input.value.trim());
  else key.clear();
}

export async function confirm(title, text, action) {
  const chosen = await ask(title, h("p", {}, text), [
    h("button", { value: "", type: "submit" }, "Cancel"),
    h("button", { value: "ok", class: "danger" }, action),
  ]);
  return chosen === "ok";
}
