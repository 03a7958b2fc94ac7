"""Requests and responses of OpenAI's API, shared by the server and batch files."""
