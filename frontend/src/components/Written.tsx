/** A text with its beginning, which the person wrote. */
export function Written({ beginning, text, draft = "" }: { beginning: string; text: string; draft?: string }) {
  return (
    <p className="max-w-prose whitespace-pre-wrap break-words">
      {beginning && <span className="font-semibold">{beginning}</span>}
      {text}
      {draft && (
        <span className="text-ink-2 underline decoration-dotted decoration-1 underline-offset-4" title="A draft: computed ahead by one node, not confirmed yet">
          {draft}
        </span>
      )}
    </p>
  );
}
