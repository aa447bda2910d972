@0xd4d2c3d1a86f7e21;
interface Echo { say @0 (payload :Data) -> (payload :Data); }
