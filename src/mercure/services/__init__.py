"""The services: receiver, router, dispatcher. Each is an object that runs alone or beside the others."""
