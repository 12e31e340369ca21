//! The writer's view of the volume: flushes, durable position, opening.
