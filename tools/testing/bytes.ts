/**
 * What the tests of all rooms share. Here: texts, and the bytes they are made of.
 *
 * @module
 */

/** The first thing that every client is sent. */
export const GREETING = "Hello World!\r\n";

export const bytesOf = (text: string) => new TextEncoder().encode(text);

export const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** `[0, 1, 2, ...]` */
export const numbers = (count: number) =>
  Array.from({ length: count }, (_, i) => i);

/** A text of that length that shows where each part of it belongs. */
export const digits = (length: number) =>
  "0123456789".repeat(length / 10 + 1).slice(0, length);
