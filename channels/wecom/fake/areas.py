"""All areas of the API in one table, and all that can be made to happen."""

from __future__ import annotations

from channels.wecom.fake.appchat import AppChats
from channels.wecom.fake.contacts import Contacts
from channels.wecom.fake.groups import Groups
from channels.wecom.fake.kf import Kf
from channels.wecom.fake.kf_people import KfPeople
from channels.wecom.fake.mass import Mass
from channels.wecom.fake.media import Media
from channels.wecom.fake.messages import Messages
from channels.wecom.fake.moments import Moments
from channels.wecom.fake.settings import Scene
from channels.wecom.fake.world import Control, Handler, World


class Areas:
    """The handlers of the API and of the control interface, by name."""

    def __init__(self, world: World, scene: Scene, media: Media) -> None:
        self.kf = Kf(world, scene, media)
        messages, contacts = Messages(world, media), Contacts(world, media)
        chats, people = AppChats(world, media), KfPeople(world, self.kf, media)
        groups, moments = Groups(world, chats), Moments(world, media)
        mass = Mass(world, media, groups)
        self.handlers: dict[str, Handler] = {}
        for area in (messages, self.kf, contacts, chats, groups, mass, moments):
            self.handlers |= area.handlers
        self.controls: dict[str, Control] = {}
        for actions in (messages, people, contacts, chats, groups, mass, moments):
            self.controls |= actions.controls
