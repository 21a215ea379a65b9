// Conversations in the browser's IndexedDB: whole ones in one store, and what the list shows of them in another, so that the list
// does not read them all. Without IndexedDB (some private windows) they live as long as the page.

const NAME = "chat";
const channel = "BroadcastChannel" in window ? new BroadcastChannel(NAME) : null;

/** Opens the store. `isKept` says whether it outlives the page. */
export async function open() {
  try {
    return inBrowser(await database());
  } catch {
    return inMemory();
  }
}

/** Calls `listen(id)` when another tab has changed a conversation. */
export function onChange(listen) {
  channel?.addEventListener("message", (event) => listen(event.data));
}

function database() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("conversations", { keyPath: "id" });
    request.result.createObjectStore("summaries", { keyPath: "id" });
  };
  return result(request);
}

function inBrowser(db) {
  return {
    isKept: true,
    list: () => result(db.transaction("summaries").objectStore("summaries").getAll()),
    get: (id) => result(db.transaction("conversations").objectStore("conversations").get(id)),
    /** Fails with a `QuotaExceededError` if there is no room. */
    put: (conversation) => change(db, conversation.id, (whole, summaries) => {
      whole.put(conversation);
      summaries.put(summary(conversation));
    }),
    remove: (id) => change(db, id, (whole, summaries) => {
      whole.delete(id);
      summaries.delete(id);
    }),
  };
}

function inMemory() {
  const kept = new Map();
  return {
    isKept: false,
    list: async () => [...kept.values()].map(summary),
    get: async (id) => kept.get(id),
    put: async (conversation) => void kept.set(conversation.id, conversation),
    remove: async (id) => void kept.delete(id),
  };
}

function summary({ id, title, updated }) {
  return { id, title, updated };
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Both stores change together or not at all. */
async function change(db, id, write) {
  const transaction = db.transaction(["conversations", "summaries"], "readwrite");
  await new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
    write(transaction.objectStore("conversations"), transaction.objectStore("summaries"));
    // Said aloud, because a page that is being left does not live to the end of the transaction.
    transaction.commit();
  });
  channel?.postMessage(id);
}
