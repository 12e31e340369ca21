//! A storage node: network, journal thread and page store around its segments.
