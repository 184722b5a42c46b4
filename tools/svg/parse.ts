/**
 * Reads pictures, for the tests of those who draw them.
 *
 * @module
 */

import { assert, assertMatch } from "@std/assert";

export type Element = { name: string; text: string } & Record<string, string>;

/** All that a picture is made of: nothing in it runs, and nothing is loaded. */
const ELEMENT =
  /<(title|style|rect|line|text)((?: \w+="[^"<&]*")*)(?:\/>|>((?:[^<>&]|&#\d+;)*)<\/\1>)/g;
const REST =
  /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg"( \w+="[^"<&]*")*>\s*<\/svg>\n$/;

/** The elements of a picture, which must be well-formed. */
export function parse(svg: string): Element[] {
  assertMatch(svg.replaceAll(ELEMENT, ""), REST);
  assert(!/ on\w+=|href|url\(|@import/.test(svg));
  return [...svg.matchAll(ELEMENT)].map(([, name, attributes, text = ""]) => ({
    ...Object.fromEntries(
      [...attributes.matchAll(/(\w+)="(.*?)"/g)].map(([, k, v]) => [k, v]),
    ),
    name,
    text: text.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code)),
  }));
}

export const texts = (elements: Element[]) =>
  elements.filter(({ name }) => name === "text").map(({ text }) => text);

/** The elements of a look. */
export const looking = (elements: Element[], look: string) =>
  elements.filter((element) => element.class === look);
