import { Check, Copy, LoaderCircle, TriangleAlert } from "lucide-react";
import {
  type ButtonHTMLAttributes,
  type ComponentPropsWithRef,
  type ReactNode,
  useEffect,
  useId,
  useRef,
  useState,
} from "react";
import { explain } from "../errors.ts";
import { ago, shorten } from "../format.ts";

/** Joins class names, leaving out what is false. */
export const cx = (...names: (string | false | undefined)[]) => names.filter(Boolean).join(" ");

const LOOKS = {
  primary: "bg-accent text-accent-ink border-transparent hover:brightness-110",
  plain: "bg-panel text-ink border-strong-line hover:bg-sunken",
  quiet: "bg-transparent text-ink border-transparent hover:bg-sunken aria-pressed:bg-accent-soft",
  danger: "bg-panel text-bad border-bad hover:bg-bad-soft",
};

/** A button; while `busy` it can't be pressed again and says that it works. */
export function Button({
  look = "plain",
  busy = false,
  className,
  children,
  disabled,
  ...rest
}: ButtonHTMLAttributes<HTMLButtonElement> & { look?: keyof typeof LOOKS; busy?: boolean }) {
  return (
    <button type="button" disabled={disabled || busy} aria-busy={busy} className={cx(buttonClass(look), className)} {...rest}>
      {busy && <LoaderCircle aria-hidden className="size-4 animate-spin" />}
      {children}
    </button>
  );
}

/** The classes of a button, for links that look like one. */
export function buttonClass(look: keyof typeof LOOKS = "plain"): string {
  return cx(
    "inline-flex min-h-9 items-center justify-center gap-2 rounded-md border px-3 py-1.5 text-sm font-medium whitespace-nowrap",
    "transition-colors disabled:cursor-not-allowed disabled:opacity-55",
    LOOKS[look],
  );
}

/** A surface with a heading. */
export function Panel({
  title,
  actions,
  children,
  className,
}: {
  title?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  className?: string;
}) {
  return (
    <section className={cx("min-w-0 rounded-lg border border-line bg-panel", className)}>
      {(title || actions) && (
        <header className="flex min-h-12 flex-wrap items-center justify-between gap-2 border-b border-line px-4 py-2">
          {title && <h2>{title}</h2>}
          {actions && <div className="flex flex-wrap items-center gap-2">{actions}</div>}
        </header>
      )}
      <div className="p-4">{children}</div>
    </section>
  );
}

/** The heading of a page. */
export function PageHeading({ title, lead, actions }: { title: ReactNode; lead?: ReactNode; actions?: ReactNode }) {
  return (
    <div className="mb-5 flex flex-wrap items-start justify-between gap-3">
      <div className="min-w-0">
        <h1 className="break-words">{title}</h1>
        {lead && <p className="mt-0.5 max-w-prose text-ink-2">{lead}</p>}
      </div>
      {actions && <div className="flex flex-wrap gap-2">{actions}</div>}
    </div>
  );
}

const TONES = {
  neutral: "bg-sunken text-ink-2",
  good: "bg-good-soft text-good",
  warn: "bg-warn-soft text-warn",
  bad: "bg-bad-soft text-bad",
  accent: "bg-accent-soft text-ink",
};
export type Tone = keyof typeof TONES;

/** A word about the state of something. */
export function Badge({ tone = "neutral", busy = false, children }: { tone?: Tone; busy?: boolean; children: ReactNode }) {
  return (
    <span className={cx("inline-flex items-center gap-1.5 rounded-full px-2.5 py-0.5 text-xs font-medium whitespace-nowrap", TONES[tone])}>
      {busy && <LoaderCircle aria-hidden className="size-3 animate-spin" />}
      {children}
    </span>
  );
}

/** A field of a form: label, control, and what is good to know. */
export function Field({
  label,
  hint,
  children,
}: {
  label: string;
  hint?: ReactNode;
  children: (ids: { id: string; "aria-describedby"?: string }) => ReactNode;
}) {
  const id = useId();
  const hintId = `${id}-hint`;
  return (
    <div>
      <label htmlFor={id} className="mb-1 block text-sm font-medium">
        {label}
      </label>
      {children(hint ? { id, "aria-describedby": hintId } : { id })}
      {hint && (
        <p id={hintId} className="mt-1 text-sm text-ink-2">
          {hint}
        </p>
      )}
    </div>
  );
}

const CONTROL =
  "w-full rounded-md border border-strong-line bg-panel px-3 py-1.5 text-ink placeholder:text-ink-2 disabled:opacity-60";

export const Input = ({ className, ...rest }: ComponentPropsWithRef<"input">) => (
  <input className={cx(CONTROL, "min-h-9", className)} {...rest} />
);

export const TextArea = ({ className, ...rest }: ComponentPropsWithRef<"textarea">) => (
  <textarea className={cx(CONTROL, "resize-y", className)} {...rest} />
);

export const Select = ({ className, ...rest }: ComponentPropsWithRef<"select">) => (
  <select className={cx(CONTROL, "min-h-9", className)} {...rest} />
);

/** An error: what happened, what to do, and a way to do it. */
export function ErrorNotice({ error, onRetry }: { error: unknown; onRetry?: (() => void) | undefined }) {
  const { what, todo } = explain(error);
  return (
    <div role="alert" className="flex flex-wrap items-start gap-3 rounded-md border border-bad bg-bad-soft px-4 py-3">
      <TriangleAlert aria-hidden className="mt-0.5 size-5 shrink-0 text-bad" />
      <div className="min-w-0 flex-1">
        <p className="font-medium break-words">{what}</p>
        <p className="text-sm">{todo}</p>
      </div>
      {onRetry && <Button onClick={onRetry}>Try again</Button>}
    </div>
  );
}

/** Something to know that is no error. */
export function Notice({ tone = "accent", children }: { tone?: Tone; children: ReactNode }) {
  return (
    <div role="status" className={cx("rounded-md px-4 py-3 text-sm", TONES[tone])}>
      {children}
    </div>
  );
}

/** What is shown where there is nothing yet. */
export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="flex flex-col items-center gap-3 px-4 py-10 text-center">
      <p className="font-medium">{title}</p>
      {children && <div className="flex max-w-prose flex-col items-center gap-3 text-ink-2">{children}</div>}
    </div>
  );
}

/** Lines in place of what is loading, of the same height. */
export function Loading({ lines = 3 }: { lines?: number }) {
  return (
    <div role="status" aria-label="Loading" className="grid gap-3 py-1">
      {Array.from({ length: lines }, (_, line) => (
        <div key={line} className="h-5 animate-pulse rounded bg-sunken" />
      ))}
    </div>
  );
}

/** How much is done of something. */
export function Progress({ done, of, label }: { done: number; of: number; label: string }) {
  return (
    <progress value={done} max={Math.max(1, of)} aria-label={label} className="h-2 w-full appearance-none overflow-hidden rounded-full bg-sunken [&::-moz-progress-bar]:bg-accent [&::-webkit-progress-bar]:bg-sunken [&::-webkit-progress-value]:bg-accent">
      {Math.round((100 * done) / Math.max(1, of))} %
    </progress>
  );
}

/** Names with values. */
export function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl className="grid grid-cols-2 gap-x-6 gap-y-3 sm:grid-cols-[repeat(auto-fill,minmax(11rem,1fr))]">
      {facts.map(([name, value]) => (
        <div key={name} className="min-w-0">
          <dt className="text-sm text-ink-2">{name}</dt>
          <dd className="tabular-nums break-words">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** An id, shortened, with a button that copies it whole. */
export function Id({ value, label = "id" }: { value: string; label?: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1_500);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = () => void navigator.clipboard.writeText(value).then(() => setCopied(true));
  return (
    <span className="inline-flex items-center gap-1">
      <code title={value} className="font-mono text-[0.85em] whitespace-nowrap">
        {shorten(value)}
      </code>
      <button
        type="button"
        onClick={copy}
        aria-label={copied ? "Copied" : `Copy the ${label} ${value}`}
        className="inline-grid size-6 place-items-center rounded text-ink-2 hover:bg-sunken"
      >
        {copied ? <Check aria-hidden className="size-3.5" /> : <Copy aria-hidden className="size-3.5" />}
      </button>
    </span>
  );
}

/** A command line, with a button that copies it. */
export function Command({ lines }: { lines: string[] }) {
  const [copied, setCopied] = useState(false);
  const copy = () => void navigator.clipboard.writeText(lines.join("\n")).then(() => setCopied(true));
  return (
    <div className="flex min-w-0 items-start gap-2 rounded-md bg-sunken p-3">
      <pre tabIndex={0} aria-label="Commands" className="min-w-0 flex-1 overflow-x-auto font-mono text-xs leading-6">
        {lines.join("\n")}
      </pre>
      <Button look="quiet" onClick={copy} aria-label="Copy the commands">
        {copied ? <Check aria-hidden className="size-4" /> : <Copy aria-hidden className="size-4" />}
      </Button>
    </div>
  );
}

/** A moment, as how long ago; the exact time on hover. */
export function When({ date }: { date: Date }) {
  return (
    <time dateTime={date.toISOString()} title={date.toLocaleString("en")} className="whitespace-nowrap">
      {ago(date)}
    </time>
  );
}

/** A dialog that takes the whole attention. Escape closes it, and the focus returns to where it was. */
export function Dialog({
  open,
  onClose,
  title,
  children,
}: {
  open: boolean;
  onClose: () => void;
  title: string;
  children: ReactNode;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const headingId = useId();
  useEffect(() => {
    if (open) dialog.current?.showModal();
    else dialog.current?.close();
  }, [open]);
  return (
    <dialog
      ref={dialog}
      onClose={onClose}
      aria-labelledby={headingId}
      className="w-[min(32rem,calc(100vw-2rem))] rounded-lg border border-line bg-panel p-5 text-ink shadow-xl"
    >
      {open && (
        <>
          <h2 id={headingId} className="mb-3">
            {title}
          </h2>
          {children}
        </>
      )}
    </dialog>
  );
}

/** Asks before something that can't be undone. */
export function ConfirmButton({
  label,
  title,
  children,
  confirm,
  dismiss = "Cancel",
  look = "danger",
  onConfirm,
  busy = false,
  disabled = false,
}: {
  label: ReactNode;
  title: string;
  children: ReactNode;
  confirm: string;
  dismiss?: string;
  look?: keyof typeof LOOKS;
  onConfirm: () => void;
  busy?: boolean;
  disabled?: boolean;
}) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button look={look} busy={busy} disabled={disabled} onClick={() => setOpen(true)}>
        {label}
      </Button>
      <Dialog open={open} onClose={() => setOpen(false)} title={title}>
        <div className="text-ink-2">{children}</div>
        <div className="mt-5 flex justify-end gap-2">
          <Button onClick={() => setOpen(false)}>{dismiss}</Button>
          <Button
            look={look === "danger" ? "danger" : "primary"}
            onClick={() => {
              setOpen(false);
              onConfirm();
            }}
          >
            {confirm}
          </Button>
        </div>
      </Dialog>
    </>
  );
}

/** A column of a table. */
export interface Column<T> {
  title: string;
  cell: (row: T) => ReactNode;
  /** Numbers stand at the right. */
  right?: boolean;
  /** Left out on narrow screens. */
  wide?: boolean;
}

/** A table; on narrow screens what is marked `wide` is left out, and it scrolls inside its panel if it must. */
export function Table<T>({ label, rows, columns, keyOf }: { label: string; rows: T[]; columns: Column<T>[]; keyOf: (row: T) => string }) {
  const cell = (column: Column<T>) => cx("px-2 py-2 first:pl-0 last:pr-0", column.right && "text-right tabular-nums", column.wide && "max-md:hidden");
  return (
    <div className="overflow-x-auto" tabIndex={0} role="region" aria-label={label}>
      <table className="w-full text-sm">
        <thead>
          <tr className="border-b border-line text-left text-ink-2">
            {columns.map((column) => (
              <th key={column.title} scope="col" className={cx(cell(column), "font-medium whitespace-nowrap")}>
                {column.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={keyOf(row)} className="border-b border-line last:border-0">
              {columns.map((column) => (
                <td key={column.title} className={cell(column)}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The end of a list: a button for more, if there is more. */
export function More({ shown, hasMore, busy, onMore }: { shown: number; hasMore: boolean; busy: boolean; onMore: () => void }) {
  if (!hasMore) return null;
  return (
    <div className="mt-3 flex items-center gap-3 text-sm text-ink-2">
      <Button busy={busy} onClick={onMore}>
        Show more
      </Button>
      <span>{shown} shown</span>
    </div>
  );
}
