import { ArrowUp, Square } from "lucide-react";
import { type FormEvent, type KeyboardEvent, type ReactNode, useState } from "react";
import { Button, TextArea } from "./ui.tsx";

/** Where a message is written, at the lower edge of the page. `options` stands at the left, `panel` below. */
export function Composer({
  label,
  placeholder,
  send,
  maxLength,
  busy,
  options,
  panel,
  onSend,
  onStop,
  stopping = false,
}: {
  label: string;
  placeholder: string;
  send: string;
  maxLength: number;
  busy: boolean;
  options?: ReactNode;
  panel?: ReactNode;
  /** Resolves to whether it was taken; a text that was refused stays, to be changed and sent again. */
  onSend: (text: string) => Promise<boolean>;
  onStop?: (() => void) | undefined;
  stopping?: boolean;
}) {
  const [text, setText] = useState("");
  const submit = async () => {
    if (text.trim() === "" || busy || onStop) return;
    if (await onSend(text)) setText("");
  };
  const key = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      void submit();
    }
  };
  return (
    <form
      onSubmit={(event: FormEvent) => {
        event.preventDefault();
        void submit();
      }}
      className="sticky bottom-0 bg-canvas pb-2 max-md:bottom-[3.75rem]"
    >
      <div className="rounded-lg border border-strong-line bg-panel p-2 focus-within:border-accent">
        <label htmlFor="message" className="sr-only">
          {label}
        </label>
        <TextArea
          id="message"
          rows={2}
          value={text}
          maxLength={maxLength}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={key}
          placeholder={placeholder}
          aria-describedby="composer-hint"
          className="!resize-none border-0 !outline-none"
        />
        <div className="flex items-center gap-2">
          {options}
          <span id="composer-hint" className="ml-auto text-xs text-ink-2 max-sm:hidden">
            Enter sends, Shift+Enter makes a line
          </span>
          {onStop ? (
            <Button onClick={onStop} busy={stopping} className="max-sm:ml-auto">
              <Square aria-hidden className="size-3.5" />
              Stop
            </Button>
          ) : (
            <Button look="primary" type="submit" busy={busy} disabled={text.trim() === ""} className="max-sm:ml-auto">
              <ArrowUp aria-hidden className="size-4" />
              {send}
            </Button>
          )}
        </div>
        {panel}
      </div>
    </form>
  );
}
