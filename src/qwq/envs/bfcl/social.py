"""MessageAPI, TwitterAPI and TicketAPI: messages of a workspace, posts, and support tickets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from qwq.envs.bfcl.base import CallRefused, Json, World


class MessageAPI(World):
    seed = 200191
    defaults: ClassVar[Mapping[str, Any]] = {
        "generated_ids": [],
        "user_count": 4,
        "user_map": {"Alice": "USR001", "Bob": "USR002", "Catherine": "USR003", "Daniel": "USR004"},
        "inbox": [
            {"USR002": "My name is Alice. I want to connect."},
            {"USR003": "Could you upload the file?"},
            {"USR004": "Could you upload the file?"},
        ],
        "message_count": 3,
        "current_user": None,
    }
    generated_ids: list[int]
    user_count: int
    user_map: dict[str, str]
    inbox: list[dict[str, str]]
    message_count: int
    current_user: str | None

    def _need_login(self) -> None:
        if not self.current_user:
            raise CallRefused("no user is logged in")

    def _sent(self) -> list[tuple[str, str]]:
        self._need_login()
        return [next(iter(message.items())) for message in self.inbox]

    def list_users(self) -> Json:
        return {"user_list": list(self.user_map)}

    def get_user_id(self, user: str) -> Json:
        if user not in self.user_map:
            raise CallRefused(f"no user {user} in the workspace")
        return {"user_id": self.user_map[user]}

    def message_login(self, user_id: str) -> Json:
        if user_id not in self.user_map.values():
            return {"login_status": False, "message": f"no user with the id {user_id}"}
        self.current_user = user_id
        return {"login_status": True, "message": f"{user_id} is logged in"}

    def message_get_login_status(self) -> Json:
        return {"login_status": bool(self.current_user)}

    def send_message(self, receiver_id: str, message: str) -> Json:
        self._need_login()
        if receiver_id not in self.user_map.values():
            raise CallRefused(f"no receiver with the id {receiver_id}")
        new_id = self._random.randint(10000, 99999)
        while new_id in self.generated_ids:
            new_id = self._random.randint(10000, 99999)
        self.generated_ids.append(new_id)
        self.inbox.append({receiver_id: message})
        self.message_count += 1
        return {"sent_status": True, "message_id": {"new_id": new_id}, "message": f"sent to {receiver_id}"}

    def delete_message(self, receiver_id: str) -> Json:
        for index in reversed(range(len(self._sent()))):
            if receiver_id in self.inbox[index]:
                del self.inbox[index]
                return {
                    "deleted_status": True,
                    "receiver_id": receiver_id,
                    "message": f"the latest message to {receiver_id} is deleted",
                }
        raise CallRefused(f"no message to {receiver_id}")

    def view_messages_sent(self) -> Json:
        grouped: dict[str, list[str]] = {}
        for receiver, text in self._sent():
            grouped.setdefault(receiver, []).append(text)
        return {"messages": grouped}

    def add_contact(self, user_name: str) -> Json:
        if user_name in self.user_map:
            raise CallRefused(f"{user_name} is a contact already")
        self.user_count += 1
        user_id = f"USR{self.user_count:03d}"
        if user_id in self.user_map.values():
            raise CallRefused(f"the id {user_id} is taken")
        self.user_map[user_name] = user_id
        return {"added_status": True, "user_id": user_id, "message": f"{user_name} is a contact now"}

    def search_messages(self, keyword: str) -> Json:
        found = [(r, t) for r, t in self._sent() if keyword.lower() in t.lower()]
        return {"results": [{"receiver_id": receiver, "message": text} for receiver, text in found]}

    def get_message_stats(self) -> Json:
        sent = self._sent()
        return {"stats": {"received_count": len(sent), "total_contacts": len({receiver for receiver, _ in sent})}}


class TwitterAPI(World):
    defaults: ClassVar[Mapping[str, Any]] = {
        "username": "john", "password": "john123", "authenticated": False, "tweets": {}, "comments": {}, "retweets": {},
        "following_list": ["alice", "bob"], "tweet_counter": 0,
    }  # fmt: skip
    username: str
    password: str
    authenticated: bool
    tweets: dict[int, Json]
    comments: dict[int, list[Json]]
    retweets: dict[str, list[int]]
    following_list: list[str]
    tweet_counter: int

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.tweets = {int(k): v for k, v in self.tweets.items()}  # JSON has texts as keys
        self.comments = {int(k): v for k, v in self.comments.items()}

    def _need_login(self) -> None:
        if not self.authenticated:
            raise CallRefused("not authenticated: authenticate first")

    def _tweet(self, tweet_id: int) -> Json:
        if tweet_id not in self.tweets:
            raise CallRefused(f"no tweet with the id {tweet_id}")
        return self.tweets[tweet_id]

    def authenticate_twitter(self, username: str, password: str) -> Json:
        good = (username, password) == (self.username, self.password)
        self.authenticated = self.authenticated or good
        return {"authentication_status": good}

    def posting_get_login_status(self) -> Json:
        return {"login_status": bool(self.authenticated)}

    def post_tweet(self, content: str, tags: list[str] = [], mentions: list[str] = []) -> Json:  # noqa: B006
        self._need_login()
        tweet = {
            "id": self.tweet_counter,
            "username": self.username,
            "content": content,
            "tags": list(tags),
            "mentions": list(mentions),
        }
        self.tweets[self.tweet_counter] = tweet
        self.tweet_counter += 1
        return tweet

    def retweet(self, tweet_id: int) -> Json:
        self._need_login()
        self._tweet(tweet_id)
        mine = self.retweets.setdefault(self.username, [])
        if tweet_id in mine:
            return {"retweet_status": "Already retweeted"}
        mine.append(tweet_id)
        return {"retweet_status": "Successfully retweeted"}

    def comment(self, tweet_id: int, comment_content: str) -> Json:
        self._need_login()
        self._tweet(tweet_id)
        self.comments.setdefault(tweet_id, []).append({"username": self.username, "content": comment_content})
        return {"comment_status": "Comment added successfully"}

    def mention(self, tweet_id: int, mentioned_usernames: list[str]) -> Json:
        self._tweet(tweet_id)["mentions"].extend(mentioned_usernames)
        return {"mention_status": "Users mentioned successfully"}

    def follow_user(self, username_to_follow: str) -> Json:
        self._need_login()
        new = username_to_follow not in self.following_list
        if new:
            self.following_list.append(username_to_follow)
        return {"follow_status": new}

    def unfollow_user(self, username_to_unfollow: str) -> Json:
        self._need_login()
        known = username_to_unfollow in self.following_list
        if known:
            self.following_list.remove(username_to_unfollow)
        return {"unfollow_status": known}

    def list_all_following(self) -> Json:
        self._need_login()
        return {"following_list": self.following_list}

    def get_tweet(self, tweet_id: int) -> Json:
        return self._tweet(tweet_id)

    def get_user_tweets(self, username: str) -> list[Json]:
        return [t for t in self.tweets.values() if t["username"] == username]

    def search_tweets(self, keyword: str) -> list[Json]:
        wanted = keyword.lower()
        return [
            t
            for t in self.tweets.values()
            if wanted in t["content"].lower() or wanted in [tag.lower() for tag in t["tags"]]
        ]

    def get_tweet_comments(self, tweet_id: int) -> list[Json]:
        self._tweet(tweet_id)
        return self.comments.get(tweet_id, [])

    def get_user_stats(self, username: str) -> Json:
        return {
            "tweet_count": len(self.get_user_tweets(username)),
            "following_count": len(self.following_list) if username == self.username else 0,
            "retweet_count": len(self.retweets.get(username, [])),
        }


class TicketAPI(World):
    defaults: ClassVar[Mapping[str, Any]] = {"ticket_queue": [], "ticket_counter": 1, "current_user": None}
    ticket_queue: list[Json]
    ticket_counter: int
    current_user: str | None

    def _ticket(self, ticket_id: int) -> Json:
        for ticket in self.ticket_queue:
            if ticket["id"] == ticket_id:
                return ticket
        raise CallRefused(f"no ticket with the id {ticket_id}")

    def ticket_login(self, username: str, password: str) -> Json:
        good = bool(username and password)
        self.current_user = username if good else self.current_user
        return {"success": good}

    def ticket_get_login_status(self) -> Json:
        return {"login_status": bool(self.current_user)}

    def logout(self) -> Json:
        was = bool(self.current_user)
        self.current_user = None if was else self.current_user
        return {"success": was}

    def create_ticket(self, title: str, description: str = "", priority: int = 1) -> Json:
        if not self.current_user:
            raise CallRefused("not logged in: log in to create a ticket")
        if not 1 <= priority <= 5:
            raise CallRefused(f"priority is {priority}: it is 1 to 5")
        ticket = {
            "id": self.ticket_counter, "title": title, "description": description, "status": "Open",
            "priority": priority, "created_by": self.current_user,
        }  # fmt: skip
        self.ticket_queue.append(ticket)
        self.ticket_counter += 1
        return ticket

    def get_ticket(self, ticket_id: int) -> Json:
        return self._ticket(ticket_id)

    def close_ticket(self, ticket_id: int) -> Json:
        return self._end(ticket_id, "Closed")

    def resolve_ticket(self, ticket_id: int, resolution: str) -> Json:
        answer = self._end(ticket_id, "Resolved")
        self._ticket(ticket_id)["resolution"] = resolution
        return answer

    def _end(self, ticket_id: int, status: str) -> Json:
        ticket = self._ticket(ticket_id)
        if ticket["status"] == status:
            raise CallRefused(f"ticket {ticket_id} is {status.lower()} already")
        ticket["status"] = status
        return {"status": f"Ticket {ticket_id} has been {status.lower()} successfully."}

    def edit_ticket(self, ticket_id: int, updates: dict[str, Any]) -> Json:
        ticket = self._ticket(ticket_id)
        unknown = sorted(set(updates) - {"title", "description", "status", "priority"})
        if unknown:
            raise CallRefused(f"a ticket's {', '.join(unknown)} cannot be changed")
        ticket |= {key: value for key, value in updates.items() if value is not None}
        return {"status": f"Ticket {ticket_id} has been updated successfully."}

    def get_user_tickets(self, status: str | None = None) -> list[Json]:
        if not self.current_user:
            raise CallRefused("not logged in: log in to see tickets")
        mine = [t for t in self.ticket_queue if t["created_by"] == self.current_user]
        return [t for t in mine if not status or t["status"].lower() == status.lower()]
