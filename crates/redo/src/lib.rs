//! PostgreSQL redo: (page, record) to page, and the non-page state.
