/** A page of a list: the items, and where the next page begins. */
export interface Paged<T, K> {
  items: T[];
  next: [] | [K];
}

/** All items of a list, page by page; stops after `most` items. */
export async function allPages<T, K>(
  page: (after: [] | [K]) => Promise<Paged<T, K>>,
  most = 10_000,
): Promise<T[]> {
  const items: T[] = [];
  let after: [] | [K] = [];
  do {
    const { items: more, next }: Paged<T, K> = await page(after);
    items.push(...more);
    after = next;
  } while (after.length > 0 && items.length < most);
  return items;
}
