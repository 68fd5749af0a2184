"""The papers: one folder each, with the same six files. A study imports downwards only and never another study."""
