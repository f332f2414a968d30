//! Objects that know no kind: value tree, codecs, schema interpreters, selectors, quantities, patches.
