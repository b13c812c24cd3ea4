import { type Collection, type Failure, failures } from "../api";
import { usePaged } from "../paged";
import { adapterText, count, many, scoreText } from "../text";
import { Problem } from "../parts/problem";

/** Facts about the collection, and the files that could not be read. */
export function About({ about }: { about: Collection }) {
  const { items, ended, error, more, again } = usePaged<Failure>("", async (after) => {
    const page = await failures(after);
    return { items: page.failures, next: page.next };
  });
  const facts: [string, string][] = [
    ["Pictures", count(about.images)],
    ["Files gone", count(about.missing)],
    ["Not readable", count(about.failures)],
    ["Recipe", about.recipe],
    ["Fingerprint", about.fingerprint.slice(0, 16)],
    ...(about.adapters.length > 1
      ? [["Compared for", about.adapters.map(adapterText).join(", ")] satisfies [string, string]]
      : []),
    [
      "A match needs",
      about.threshold === null ? "this recipe ranks, it does not tell matches" : scoreText(about.threshold, true),
    ],
    ["On disk", `${count(Math.round(about.bytes_on_disk / 2 ** 20))} MiB`],
    ["Where", about.path],
  ];
  return (
    <main class="collection" id="main">
      <div class="summary">
        <h1>{about.name}</h1>
      </div>
      {about.why && <p class="problem">{about.why}</p>}
      {about.advice && <p class="advice">{about.advice}</p>}
      <dl>
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <h2>{many(about.failures, "file")} could not be read</h2>
      <Problem text={error} again={again} />
      {items.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">File</th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {items.map(({ path, reason }) => (
              <tr key={path}>
                <td>{path}</td>
                <td>{reason}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {!ended && items.length > 0 && (
        <button type="button" onClick={more}>
          More files
        </button>
      )}
    </main>
  );
}
