# Not tested yet: it was written on a machine without Docker.
# The wheels need glibc, so the base image is not Alpine. PostgreSQL is one of them.
FROM python:3.13-slim

WORKDIR /app
COPY pyproject.toml requirements.lock README.md LICENSE alembic.ini ./
COPY migrations migrations
COPY src src
RUN pip install --no-cache-dir --constraint requirements.lock . \
    && useradd --uid 10001 --create-home stockpulse \
    && install --directory --owner=stockpulse --group=stockpulse --mode=700 /data

USER stockpulse
ENV STOCKPULSE_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
CMD ["uvicorn", "stockpulse.app:app", "--host", "0.0.0.0", "--port", "8000"]
