// What the user chose, in this browser; and the API key, which only this tab knows, until it is closed.

import { byId } from "./dom.js";

const NAME = "chat.settings";
const KEY = "chat.key";

const NAMES = ["system", "effort", "temperature"];

/** What is chosen: `system`, `effort`, `temperature`; all texts, empty for the server's choice. */
export const settings = stored();

/** The API key, or nothing. */
export function key() {
  return session((storage) => storage.getItem(KEY)) ?? "";
}

/** Fills the dialog and opens it, at the key if the server asks for one. `done(isNewKey)` is called when it is closed. */
export function openSettings(needsKey, done) {
  const before = key();
  for (const name of NAMES) byId(name).value = settings[name];
  byId("key-field").hidden = !(needsKey || before);
  byId("key").value = before;
  const dialog = byId("settings");
  dialog.onclose = () => {
    keep();
    done(key() !== before);
  };
  dialog.showModal();
  if (needsKey) byId("key").focus();
}

function keep() {
  for (const name of NAMES) settings[name] = byId(name).value.trim();
  session((storage) => storage.setItem(KEY, byId("key").value.trim()));
  try {
    localStorage.setItem(NAME, JSON.stringify(settings));
  } catch {
    // They then last as long as the page, which is what a browser without storage is asked for.
  }
}

function stored() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(NAME));
  } catch {
    // Unreadable, or no storage: as if nothing had been chosen.
  }
  return Object.fromEntries(NAMES.map((name) => [name, String(kept?.[name] ?? "")]));
}

let unkept = "";

/** Does something with the tab's storage; without one the key lives as long as the page. */
function session(act) {
  try {
    return act(sessionStorage);
  } catch {
    return act({ getItem: () => unkept, setItem: (_, value) => (unkept = value) });
  }
}
