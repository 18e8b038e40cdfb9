"""Chats: what is asked of models through files, and conversations that survive."""
