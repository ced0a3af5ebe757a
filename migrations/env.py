"""Alembic's entry: it is only ever called by `service.database`, which gives the connection and holds the lock."""

from alembic import context

from service.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
