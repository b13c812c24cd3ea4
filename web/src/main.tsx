import { render } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";

import {
  ApiError,
  type Collection,
  type Folder,
  type Key,
  collection,
  folders as getFolders,
  keys as getKeys,
  keepToken,
  setToken,
} from "./api";
import { Page } from "./page";
import { messageOf } from "./text";
import { setTheme } from "./theme";
import "./style.css";
import { Problem } from "./parts/problem";

/** Waits for the collection, and for the token where the server wants one. */
function Door() {
  const [ready, setReady] = useState<{ about: Collection; folders: Folder[]; keys: Key[] } | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [token, setTyped] = useState("");
  const load = useCallback(() => {
    Promise.all([collection(), getFolders(), getKeys()]).then(([about, folders, keys]) => {
      setReady({ about, folders, keys });
      setError(null);
    }, setError);
  }, []);
  useEffect(load, []);
  if (ready) return <Page {...ready} reload={load} />;
  if (error instanceof ApiError && error.status === 401) {
    return (
      <main class="door">
        <h1>resight</h1>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            setToken(token.trim());
            load();
          }}
        >
          <label>
            Token, as the server printed it
            <input
              type="password"
              autocomplete="off"
              value={token}
              onInput={(event) => setTyped(event.currentTarget.value)}
            />
          </label>
          <button type="submit" class="main" disabled={!token.trim()}>
            Enter
          </button>
        </form>
      </main>
    );
  }
  if (error) {
    return (
      <main class="door">
        <h1>resight</h1>
        <Problem text={messageOf(error)} />
        <button type="button" class="main" onClick={load}>
          Try again
        </button>
      </main>
    );
  }
  return <main class="door" aria-busy="true" />;
}

keepToken();
setTheme();
render(<Door />, document.getElementById("page")!);
