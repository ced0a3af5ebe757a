"""Alembic's entry: only `service.storage.database` calls it, gives the connection and holds the lock."""

from alembic import context

from service.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
