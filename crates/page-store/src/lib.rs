//! A storage node's files: journal, delta and image layers, page materialisation.
