"""How the demo's gunicorn runs. Two workers: enough to see that they share one circuit."""

wsgi_app = "config.asgi:application"
worker_class = "uvicorn_worker.UvicornWorker"
workers = 2
loglevel = "warning"

# A worker that does not stop by itself within this time is killed.
graceful_timeout = 3

# No control socket in the home folder: the demo leaves nothing behind.
control_socket_disable = True
