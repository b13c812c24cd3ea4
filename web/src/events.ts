// Server-sent events, heard by fetch.

import { ApiError, request } from "./api";

export interface Told {
  event: string;
  data: unknown;
}

/**
 * Server-sent events of `path` until the stream ends for good, one of `last` has come, or `signal` aborts.
 * By fetch and not by EventSource, which cannot carry the token. Goes on after a break from the last event heard.
 */
export async function* events(path: string, last: readonly string[], signal: AbortSignal): AsyncGenerator<Told> {
  let lastId = "";
  for (let failed = 0; ; failed++) {
    try {
      const response = await request(path, {
        signal,
        headers: { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) },
      });
      for await (const { id, event, data } of parseEvents(response.body!)) {
        if (id) lastId = id;
        failed = 0;
        yield { event, data: JSON.parse(data) as unknown };
        if (last.includes(event)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (failed >= 5 || (error instanceof ApiError && error.status >= 400 && error.status < 500)) throw error;
    }
    if (failed >= 5) throw new ApiError(0, "The server stopped telling how far it is. Load the page again.");
    await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** failed));
  }
}

/** The events of a text/event-stream (HTML Living Standard, 9.2.6) that has `\n` or `\r\n` line ends. */
export async function* parseEvents(
  stream: ReadableStream<Uint8Array>,
): AsyncGenerator<{ id: string; event: string; data: string }> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let current = { id: "", event: "message", data: [] as string[] };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const lines = text.split(/\r?\n/);
      text = lines.pop()!;
      for (const line of lines) {
        const [, field, content] = /^([^:]*):? ?(.*)$/.exec(line)!;
        if (line === "") {
          if (current.data.length) yield { ...current, data: current.data.join("\n") };
          current = { id: "", event: "message", data: [] };
        } else if (field === "data") current.data.push(content!);
        else if (field === "id") current.id = content!;
        else if (field === "event") current.event = content!;
      }
    }
  } finally {
    await reader.cancel();
  }
}
