import { useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Empty, More, Panel } from "../../components/ui.tsx";
import { dateOf } from "../../format.ts";
import { useLog } from "../../projects/queries.ts";
import { eventWords } from "../../projects/words.ts";
import { useProjectId } from "./ProjectLayout.tsx";

const PAGE = 50;

/** What happened, newest first. The project is what these events make of an empty one. */
export function LogPage() {
  const log = useLog(useProjectId());
  const [shown, setShown] = useState(PAGE);
  return (
    <Panel title="What happened">
      <Loaded query={log} lines={8}>
        {({ events }) => {
          const told = events.flatMap((event) => {
            const words = eventWords(event.kind);
            return words === undefined ? [] : [{ event, words }];
          });
          if (told.length === 0) return <Empty title="Nothing yet" />;
          return (
            <>
              <ol className="grid gap-1.5 text-sm">
                {told
                  .slice(-shown)
                  .reverse()
                  .map(({ event, words }) => (
                    <li key={String(event.sequence)} className="grid grid-cols-[5.5rem_1fr] gap-2">
                      <time dateTime={dateOf(event.time_ns).toISOString()} className="text-ink-2 tabular-nums">
                        {dateOf(event.time_ns).toLocaleTimeString("en")}
                      </time>
                      <span className="break-words">{words}</span>
                    </li>
                  ))}
              </ol>
              <More shown={Math.min(shown, told.length)} hasMore={told.length > shown} busy={false} onMore={() => setShown(shown + PAGE)} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}
