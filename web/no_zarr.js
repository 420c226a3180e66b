// Stands in for zarrita: scans come as one file each, and its codecs are half of NiiVue's size.
export const FetchStore = undefined;
export const open = undefined;
export const root = undefined;
export const get = undefined;
